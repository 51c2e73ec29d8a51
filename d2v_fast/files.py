"""Files that are there as a whole or not at all, on file systems that cannot do everything.

A file system may refuse to force a folder to the disk, and a deletion may fail because another machine still has the
file open. Neither is a reason to stop a run: it is told once, and the work goes on. A full or a broken disk is one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from d2v_fast.log import tell

NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})
"""What a file system answers to a call that it does not have."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space is left, of the disk, of the quota, or of what a process may write."""

_told: set[tuple[str, str]] = set()


def tell_once(topic: str, place: str | Path, message: str) -> None:
    """Tell `message` unless something about the same topic and place has been told by this process."""
    if (topic, str(place)) not in _told:
        _told.add((topic, str(place)))
        tell(message)


def exists(path: Path) -> bool:
    """Whether something is at `path`. Unlike `Path.exists`, an error is never taken for "no".

    Raises:
        OSError: It cannot be known just now, for example because a network disk does not answer.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) under a temporary name, force it to the disk and rename it.

    Raises:
        OSError: It could not be written; what was at `path` is still there.
    """
    with whole_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, under a temporary name; at the end it is forced to the disk and renamed.

    Raises:
        OSError: It could not be written; what was at `path` is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                sync(file.fileno(), path)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.unlink(temporary)
            raise
    sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error inside name `path`, where it names no file: a full disk does not say where.

    Raises:
        OSError: Whatever was raised.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sync(handle: int, path: Path) -> None:
    """Force an open file, or a folder, to the disk; it is told once where that does not exist.

    Args:
        handle: The file descriptor.
        path: What it is, for the message.

    Raises:
        OSError: The disk is full or broken.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        _cannot_sync(path, error)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk; it is told once where that does not exist.

    Raises:
        OSError: The disk is full or broken.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED | {errno.EACCES, errno.EPERM, errno.EISDIR}:
            raise
        _cannot_sync(folder, error)
        return
    try:
        sync(handle, folder)
    finally:
        os.close(handle)


def _cannot_sync(path: Path, error: OSError) -> None:
    device = os.stat(path.parent).st_dev
    tell_once(
        "sync",
        str(device),
        f"the file system of {path} cannot force it to the disk ({error.strerror}): "
        "after a power cut the last checkpoint may be missing; the run goes on",
    )


def delete(path: Path) -> bool:
    """Delete a file or a folder. If that fails, it is told once for each folder that it lies in; nothing is raised.

    Returns:
        Whether it is gone.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        tell_once(
            "delete",
            path.parent,
            f"{path} cannot be deleted ({error.strerror}); the run goes on, and a later start tries again",
        )
        return False
    return True
