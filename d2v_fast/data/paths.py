"""Paths that users and manifests name, and where those of a manifest may lead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from d2v_fast.errors import DataError, SampleError

ALLOW = "--loader.allow-roots (d2v-fast data: --allow-roots)"
"""The remedy for what lies outside of a manifest's root."""


class Fence:
    """The folders that the entries of a manifest may be in.

    Args:
        home: The root that the entries are relative to.
        allowed: Other folders that links may lead to.
    """

    def __init__(self, home: Path, allowed: Sequence[str | Path] = ()) -> None:
        self._home = home
        self._inside = [os.path.realpath(home), *(os.path.realpath(expanded(root, ALLOW)) for root in allowed)]
        self._folders: dict[str, str] = {}  # where each folder really is: most files share a few

    def entry(self, name: str) -> str:
        """The name as a path relative to the root, without dots.

        Raises:
            SampleError: It is absolute and elsewhere, or climbs out.
        """
        flat = os.path.normpath(name)
        if os.path.isabs(flat):
            flat = os.path.relpath(flat, os.path.abspath(self._home))
        if flat.split(os.sep, 1)[0] == os.pardir:
            raise SampleError(name, f"leads out of {self._home}, the root of its manifest")
        return flat

    def check(self, path: str) -> None:
        """Follows the links of a path.

        Raises:
            SampleError: They lead out, or to a pipe or a device, which might keep us waiting.
        """
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not any(inside(real, root) for root in self._inside):
            raise SampleError(path, f"leads out of {self._home}, to {real}: allow that folder by {ALLOW}")
        if os.path.exists(real) and not os.path.isfile(real):
            raise SampleError(path, "is not a plain file")


def expanded(path: str | Path, what: str = "data") -> Path:
    """A path with its ~ replaced by a home folder.

    Args:
        path: As it was given.
        what: Names it, in the message.

    Raises:
        DataError: Nobody knows that home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{what}: {path} begins with ~, but that home folder is not known: write it out") from error


def inside(path: str, root: str) -> bool:
    """Whether an absolute path is `root` or below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
