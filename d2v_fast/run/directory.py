"""The folder of a run: who may use it, and the files in it that are not checkpoints."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from d2v_fast.config import Config
from d2v_fast.config_json import differences, from_dict, to_dict
from d2v_fast.errors import ConfigError, RunError

MAY_CHANGE = (
    "checkpoint.",
    "log.",
    "monitor.",
    "loader.threads",
    "loader.prefetch",
    "loader.max_skipped",
    "loader.allow_roots",
    "inputs.tokenizer",
)
"""Fields that decide no bit of the weights: intervals, threads, paths, when a collapse is called one and when broken
files are too many. (What is in a tokenizer is part of the data's fingerprint, only its path may change.) `steps` may
grow. (The engine may not change: two engines give the same pictures only to within a rounding.)"""

_held: set[Path] = set()  # a POSIX lock does not keep the same process out, this does


class RunDirectory:
    """A locked run folder. Use it as a context manager.

    The lock is a POSIX record lock: the system drops it with the process, however that ends, and no child inherits it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self._lock_file: int | None = None

    def __enter__(self) -> RunDirectory:
        """Create the folder if it is not there, and lock it.

        Raises:
            RunError: Another process uses the run, or the folder holds something that is not a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; give the run a folder of its own")
        ours = {"lock", "config.json", "config.json.tmp"}
        if self.path.is_dir() and not self.config_file.exists():
            strange = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
            if strange:
                raise RunError(
                    f"{self.path} holds files ({', '.join(strange[:3])}) but no config.json, so it is not a run; "
                    "give the run a new or an empty folder"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(f"{self.path} cannot be used for a run: {error.strerror}; choose another folder") from error
        try:
            if self.path in _held:
                raise BlockingIOError
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Closing any handle of the file would drop this process's own lock on it, so read the owner first and
            # leave the handle open if the lock is ours.
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            if self.path not in _held:
                os.close(handle)
            raise RunError(
                f"{self.path} is in use by {owner}; wait for it or stop it, or choose another folder for this run"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        _held.add(self.path)
        self._lock_file = handle
        return self

    def __exit__(self, *exception: object) -> None:
        _held.discard(self.path)
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def write_config(self, config: Config) -> None:
        """Write config.json, whole or not at all."""
        write_atomic(self.config_file, json.dumps(to_dict(config), indent=2) + "\n")

    def check_config(self, config: Config) -> None:
        """Refuse to continue a run with a configuration that would change its bits.

        Raises:
            RunError: Names every such field with both values.
        """
        if not self.config_file.exists():
            return
        before = read_config(self.path)
        wrong = []
        for name, old, new in differences(before, config):
            if name == "steps" and new >= old:
                continue
            if not name.startswith(MAY_CHANGE):
                grow = " (it may only grow)" if name == "steps" else ""
                wrong.append(f"{name}: the run has {old!r}, this command {new!r}{grow}")
        if wrong:
            raise RunError(
                f"{self.path} was made with another configuration; " + "; ".join(wrong) + ". Give these fields the "
                "run's values to continue it, or start a new run in another folder (--init-from takes over its weights)"
            )


def read_config(run: Path) -> Config:
    """The configuration of the run in the folder `run`.

    Raises:
        RunError: There is no readable config.json in it.
    """
    path = run / "config.json"
    try:
        return from_dict(Config, json.loads(path.read_text()))
    except FileNotFoundError:
        raise RunError(f"{run} is not a run: it has no config.json") from None
    except (json.JSONDecodeError, ConfigError) as error:
        raise RunError(f"{path} cannot be read ({error}); it was made by another version, or is damaged") from error


def write_atomic(path: Path, text: str) -> None:
    """Write `text` under a temporary name, force it to the disk and rename it."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class MetricsFile:
    """metrics.jsonl: one JSON object a line. What follows the last checkpoint is cut off when a run continues."""

    def __init__(self, path: Path, size: int) -> None:
        """Open the file and cut it to `size` bytes (0 for a new run); a file that is shorter stays as it is."""
        self._file = open(path, "ab")  # noqa: SIM115  (open as long as the run)
        self._file.truncate(min(size, os.path.getsize(path)))
        self._file.seek(0, os.SEEK_END)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Force the lines to the disk; the size of the file in bytes, for the checkpoint."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
