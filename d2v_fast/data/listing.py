"""Which files there are below a folder, before any of them is opened."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from d2v_fast.errors import DataError
from d2v_fast.log import report, tell


@dataclass(frozen=True)
class Listing:
    """Samples by name: the files below a folder, the rows of a manifest, the members of archives."""

    names: list[str]
    """Paths relative to the root, with forward slashes, sorted or in the order of the manifest."""

    file_bytes: np.ndarray
    """int64 [N], size of each sample; -1 where it is not known."""

    ignored: Counter[str] = field(default_factory=Counter)
    """How many files of each other extension there are."""

    sizes: np.ndarray | None = None
    """int64 [N, k], what the headers would say, where a manifest says it already; a row of -1 is not known."""

    places: np.ndarray | None = None
    """int64 [N, 2], which of `containers` each sample lies in (-1: it is a file of its own) and its first byte."""

    containers: tuple[str, ...] = ()
    """Archives, relative to the root."""

    problems: dict[int, str] = field(default_factory=dict)
    """Why a sample cannot be read, where that is known already."""

    spans: np.ndarray | None = None
    """float64 [N, 2], where samples are parts of their files: the second at which each begins, and how many it has
    (nan: to the end)."""


def list_files(root: Path, extensions: Sequence[str], run: Path | None = None) -> Listing:
    """Finds the files below `root` with one of these extensions (".wav"), whatever their case.

    Names that begin with a dot are left out. Links are followed; a folder is entered once, so loops end; one that
    cannot be listed is named and left out. The folder `run` is not entered: what a run writes is not its data.

    Raises:
        DataError: The folder cannot be listed, or the run is to be written into the data folder itself.
    """
    found: list[tuple[str, int]] = []
    ignored: Counter[str] = Counter()
    entered = {_identity(run)} if run is not None and run.exists() else set()
    if _identity(root) in entered:
        raise DataError(f"data: {root} is also the folder of the run: write the run into another one")
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            if (identity := _identity(root / folder)) in entered:
                continue
            entered.add(identity)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise DataError(f"data: {root} cannot be listed: {error.strerror}") from error
            report(str(root / folder), f"this folder cannot be listed: {error.strerror}")
            continue
        if folder and _is_run(root / folder, {entry.name for entry in entries}):
            tell(f"left out {root / folder}: it is the folder of a run", logging.INFO)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                folders.append(name)
            elif (extension := os.path.splitext(entry.name)[1].lower()) in extensions and _may_be_read(entry):
                found.append((name, _file_bytes(entry)))
            else:
                ignored[extension] += 1
    found.sort()
    return Listing([name for name, _ in found], np.array([size for _, size in found], dtype=np.int64), ignored)


_RUN = {"checkpoints", "index.bin", "index.jsonl", "metrics.jsonl", "lock"}
"""What lies beside config.json in the folder of a run, one or the other from its first start on."""


def _is_run(folder: Path, names: set[str]) -> bool:
    """Whether this program writes a run there: by its config.json, which has a model and masks."""
    if "config.json" not in names or not names & _RUN:
        return False
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"model", "mask", "loader"} <= config.keys()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Not a pipe or a device, which might keep us waiting; a link to nothing is kept, to be named as broken."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _file_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing
        return -1


def check_formats(root: Path, listing: Listing, remedies: Mapping[str, str], wanted: str) -> None:
    """Explains a folder without a single usable file, and tells about files that could be usable and are not.

    Args:
        root: The folder.
        listing: What was found there.
        remedies: What to do about known formats that cannot be read, by extension.
        wanted: The formats that can be, for the message.

    Raises:
        DataError: If the listing is empty.
    """
    known = sorted(extension for extension in listing.ignored if extension in remedies)
    if known:
        found = ", ".join(f"{listing.ignored[extension]} {extension}" for extension in known)
        problem = f"{root} has {found}, which cannot be read. {remedies[known[0]]}"
        if not listing.names:
            raise DataError(f"data: {problem}")
        tell(f"left out: {problem}")
    if listing.names:
        return
    if listing.ignored:
        found = ", ".join(
            f"{count} {extension or 'without extension'}" for extension, count in listing.ignored.most_common(5)
        )
        raise DataError(f"data: {root} has no {wanted} files, only {found}")
    raise DataError(f"data: {root} is empty; put {wanted} files into it (subfolders are searched too)")
