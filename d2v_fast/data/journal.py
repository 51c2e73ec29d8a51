"""What an interrupted scan has found out already."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from d2v_fast.files import write_whole


class Journal:
    """Samples that were found to be good, a line each, on the disk as soon as they are known.

    Args:
        path: Of the file.
        task: What is scanned and how; a file that says something else is begun anew.
    """

    def __init__(self, path: Path, task: dict[str, Any]) -> None:
        self._path, self._task = path, json.dumps(task)
        self.known: dict[str, tuple[int, tuple[int, ...]]] = {}
        """Name to bytes and sizes."""
        if path.exists():
            with path.open("rb") as file:
                if file.readline() == self._task.encode() + b"\n":
                    for line in file:
                        with contextlib.suppress(ValueError, TypeError):  # cut off or damaged: looked at again
                            name, count, *sizes = json.loads(line)
                            self.known[name] = (count, tuple(map(int, sizes)))

    def __enter__(self) -> None:
        # what is known is written again: behind a line that was cut off nothing could be added
        lines = [self._task, *(json.dumps([name, count, *sizes]) for name, (count, sizes) in self.known.items())]
        write_whole(self._path, "\n".join(lines) + "\n")
        self._file = self._path.open("a", buffering=1, encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def note(self, name: str, count: int, sizes: tuple[int, ...]) -> None:
        """Keeps a good sample; a broken one is looked at again, it may have been mended."""
        self._file.write(json.dumps([name, count, *sizes]) + "\n")

    def remove(self) -> None:
        """After what was found out is written elsewhere."""
        self._path.unlink()
