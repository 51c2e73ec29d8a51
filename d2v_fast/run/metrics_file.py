"""metrics.jsonl: one JSON object a line, written while the run trains and read by whoever looks at it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from d2v_fast.errors import RunError
from d2v_fast.files import sync, tell_once
from d2v_fast.log import tell


class MetricsFile:
    """The file of a running run. What follows the last checkpoint is cut off when a run continues."""

    def __init__(self, path: Path, size: int) -> None:
        """Open the file and cut it to `size` bytes (0 for a new run), and then to its last whole line.

        A file that was changed by hand, or has lost its end, may have no line that ends there.

        Raises:
            RunError: It cannot be opened.
        """
        self._path = path
        try:
            # No buffer: what could not be written must not be tried again when the file is closed.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (open as long as the run)
            with open(path, "rb") as before:
                self._file.truncate(before.read(size).rfind(b"\n") + 1)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
        self._size = os.path.getsize(path)
        self.before = _known(path)
        """The lines that it holds when it is opened."""

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, or nothing of it.

        Raises:
            OSError: It could not be written.
        """
        rest = memoryview(json.dumps(line, allow_nan=False).encode() + b"\n")
        length = len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # a half line at the end is one that readers leave out
                self._file.truncate(self._size)
            raise
        self._size += length

    def sync(self) -> int:
        """Force the lines to the disk; the size of the file in bytes, for the checkpoint.

        If that fails it is told once: the lines matter less than the checkpoint that is about to be written.
        """
        try:
            sync(self._file.fileno(), self._path)
        except OSError as error:
            tell_once("sync", self._path, f"{self._path} could not be forced to the disk: {error.strerror}")
        return self._size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ReadLines:
    """The file of a running run that another process writes."""

    def __init__(self, path: Path) -> None:
        self.before = _known(path)
        """The lines that it holds when it is opened."""

    def write(self, line: dict[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> int:
        """Nothing."""
        return 0

    def close(self) -> None:
        """Nothing."""


def _known(path: Path) -> list[dict[str, Any]]:
    """The lines; none, and a word about it, if somebody has changed the file."""
    try:
        return read_metrics(path)
    except RunError as error:
        tell(f"{error}; the log continues without the lines before")
        return []


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if it is not there. A last line that is still being written is left out.

    Raises:
        RunError: It cannot be read, or a line is not what a run writes.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    result = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or type(values.get("step")) is not int:
                raise ValueError("it is no object with a whole number as its step")
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}, line {number} is not a line of metrics: {error}") from error
        result.append(values)
    return result
