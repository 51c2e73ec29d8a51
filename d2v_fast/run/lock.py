"""The lock of a run's folder. Light, so that a command can refuse a folder in use before it imports anything heavy."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from d2v_fast.errors import RunError
from d2v_fast.files import NOT_SUPPORTED, exists, tell_once

NAME = "lock"
"""The file's name in the run's folder. It stays there; what counts is the lock on it."""

_held: set[Path] = set()  # a POSIX lock does not keep the same process out, this does


class Lock:
    """A POSIX record lock: the system drops it with the process, however that ends, and no child inherits it.

    Some network file systems have no locks. There it is told once, and the run goes on without.

    Args:
        folder: The run's folder, resolved; it is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None

    def take(self) -> None:
        """Lock the folder, and leave the name of this process in the file.

        Raises:
            RunError: Another process, or this one, uses the folder; the message names it.
            OSError: The file cannot be made or locked.
        """
        handle = os.open(self._folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if self._folder in _held:
                raise BlockingIOError(errno.EAGAIN, "held by this process")
            _lock(handle, self._folder)
        except OSError as error:
            # Closing any handle of the file would drop this process's own lock on it, so read the owner first and
            # leave the handle open if the lock is ours.
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            if self._folder not in _held:
                os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise RunError(
                f"{self._folder} is in use by {owner}; wait for it or stop it, or choose another folder for this run"
            ) from None
        _held.add(self._folder)
        self._handle = handle
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:  # the lock holds; only the name of its owner is missing
            tell_once("owner", self._folder, f"{self._folder / NAME} cannot be written: {error.strerror}")

    def release(self) -> None:
        """Drop the lock, if it was taken."""
        if self._handle is not None:
            _held.discard(self._folder)
            os.close(self._handle)
            self._handle = None


def refuse_if_in_use(path: str | Path) -> None:
    """Look whether another process trains in the folder `path`, without making anything; "" is no folder.

    Raises:
        RunError: It does; the message names it.
    """
    if path == "":
        return
    try:
        folder = Path(path).expanduser().resolve()
        if not exists(folder / NAME):
            return
    except (OSError, ValueError, RuntimeError):  # the start itself will say what is wrong with the path
        return
    lock = Lock(folder)
    try:
        lock.take()
    except OSError:  # so it will here
        return
    lock.release()


def _lock(handle: int, folder: Path) -> None:
    """Lock the whole file, or tell that there are no locks here.

    Raises:
        OSError: EAGAIN or EACCES if it is locked already, anything else if it cannot be known.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED | {errno.ENOLCK}:
            raise
        tell_once(
            "lock",
            folder,
            f"the file system of {folder} has no locks ({error.strerror}): "
            "take care that no second process trains in the same folder",
        )
