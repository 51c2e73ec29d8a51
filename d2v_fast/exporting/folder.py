"""A folder that is written as a whole or not at all, and replaces nothing unasked."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from d2v_fast.errors import RunError
from d2v_fast.files import delete, exists, sync, sync_folder


@contextlib.contextmanager
def new_folder(out: Path, mark: str, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to write to, which becomes `out` if nothing goes wrong and is deleted otherwise.

    Args:
        out: Its name in the end. An empty folder may be there.
        mark: The file by which a folder is known as an earlier one of this kind.
        overwrite: Replace an earlier one.

    Raises:
        RunError: `out` is there and may not be replaced.
        OSError: It cannot be written.
    """
    check_new(out, mark, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        folder.chmod(0o777 & ~_umask())  # mkdtemp's own are for nobody else
        yield folder
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                sync(file.fileno(), path)
        check_new(out, mark, overwrite=overwrite)
        _put(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # the first error is the one to tell
        raise
    sync_folder(out.parent)


def check_new(out: Path, mark: str, *, overwrite: bool) -> None:
    """Refuse what `new_folder` would refuse.

    Raises:
        RunError: `out` is there and may not be replaced.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise RunError(f"{out} exists and is no folder: choose another name")
    if not any(out.iterdir()):
        return
    if not exists(out / mark):
        raise RunError(f"{out} exists and is no export (it has no {mark}): choose another folder")
    if not overwrite:
        raise RunError(f"{out} exists: give --overwrite to replace this export, or choose another folder")


def _put(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`; an earlier one steps aside first and comes back if that fails."""
    if not exists(out):
        os.rename(folder, out)
        return
    if not any(out.iterdir()):
        out.rmdir()
        os.rename(folder, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    os.rename(out, aside / out.name)
    try:
        os.rename(folder, out)
    except BaseException:
        os.rename(aside / out.name, out)
        aside.rmdir()
        raise
    delete(aside)


def _umask() -> int:
    """What new files are not allowed to whom; the system tells it only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
