"""The folder of the checkpoints: which are there, and how one makes room for another without being lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

from d2v_fast.files import delete, tell_once

TEMPORARY = ".writing_"
"""Begins the name of whatever is not whole yet, or is not needed any more."""

_NAME = re.compile(r"step_(\d{8,})")
_REPLACED = re.compile(r"\.writing_old_(\d{8,})(_\d+)?")
_ASIDE = re.compile(r"damaged_step_\d{8,}.*")


def checkpoints_in(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints in `root`, oldest first.

    One that makes room for another one of its step counts until that one is in place.

    Raises:
        OSError: The folder is there and cannot be listed.
    """
    found: dict[int, Path] = {}
    names = names_in(root)
    for name in names:
        if match := _REPLACED.fullmatch(name):
            found[int(match[1])] = root / name
    for name in names:  # after the replaced ones, for which they stand
        if match := _NAME.fullmatch(name):
            found[int(match[1])] = root / name
    return sorted(found.items())


def step_of(name: str) -> int | None:
    """The step that a checkpoint's name says; None if it is another name, as that of a copy elsewhere may be."""
    match = _NAME.fullmatch(name) or _REPLACED.fullmatch(name)
    return int(match[1]) if match else None


def names_in(root: Path) -> list[str]:
    """What is in the folder, sorted; nothing if it is not there.

    Raises:
        OSError: The folder is there and cannot be listed.
    """
    try:
        return sorted(os.listdir(root))
    except (FileNotFoundError, NotADirectoryError):
        return []


def clean(root: Path) -> None:
    """Remove what a process that died left half written or half deleted; what cannot be deleted stays, and is told.

    Of two renames that replace a checkpoint the second may be missing: then the first is taken back.
    """
    try:
        names = names_in(root)
    except OSError as error:
        tell_once("list", root, f"{root} cannot be listed ({error.strerror}), so nothing is removed from it")
        return
    for name in reversed(names):  # of two replaced ones of a step the later one counts
        path = root / name
        match = _REPLACED.fullmatch(name)
        if match and not there(root / f"step_{match[1]}"):
            try:
                os.rename(path, root / f"step_{match[1]}")
            except OSError as error:  # it counts under this name as well
                tell_once("rename", root, f"{path} cannot be renamed: {error.strerror}")
        elif name.startswith(TEMPORARY):
            delete(path)


def delete_old(root: Path, step: int, keep: int, best: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints up to `step`, and that of step `best`.

    What cannot be deleted is told.
    """
    try:
        old = [(other, path) for other, path in checkpoints_in(root) if other <= step][:-keep]
    except OSError as error:
        tell_once("list", root, f"{root} cannot be listed ({error.strerror}), so nothing is removed from it")
        return
    for other, path in old:
        if other == best:
            continue
        # Renamed first: a kill while the files go leaves no half of a checkpoint under its name.
        dying = free_name(root / f"{TEMPORARY}old_{path.name}")
        try:
            os.rename(path, dying)
        except OSError as error:
            tell_once("delete", root, f"{path} cannot be deleted ({error.strerror}); the run goes on")
        else:
            delete(dying)


def put_aside(folder: Path) -> None:
    """Rename a damaged checkpoint, so that nothing takes it for a good one."""
    aside = free_name(folder.with_name(f"damaged_{folder.name}"))
    try:
        os.rename(folder, aside)
    except OSError as error:
        tell_once("rename", folder.parent, f"{folder} cannot be set aside: {error.strerror}; the run goes on")


def there(path: Path) -> bool:
    """Whether `path` exists, be it a link to nothing, or may exist and cannot be looked at."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def free_name(path: Path) -> Path:
    """`path`, or the first of path_2, path_3, ... that is not there: something undeletable may have the name."""
    number, free = 1, path
    while there(free):
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free


def aside_in(root: Path) -> list[str]:
    """Names of the checkpoints that were set aside as damaged, by this version or an older one.

    Raises:
        OSError: The folder is there and cannot be listed.
    """
    return [name for name in names_in(root) if _ASIDE.fullmatch(name)]
