"""From a path to the samples that it stands for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.begun import head_of
from d2v_fast.data.changes import too_many
from d2v_fast.data.collection import GONE, Collection
from d2v_fast.data.formats import archives, beside, manifest, tables
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Index
from d2v_fast.data.listing import Listing, check_formats, list_files
from d2v_fast.data.own import DOCUMENT
from d2v_fast.data.paths import expanded
from d2v_fast.data.store import FileStore
from d2v_fast.errors import DataError
from d2v_fast.log import tell

_MOST = 1_000_000
"""Shards that a pattern may stand for."""


def find(
    path: str | Path, kind: Kind, *, run: Path | None, allow_roots: Sequence[str] = (), thorough: bool = False
) -> Collection:
    """Says what a path is, by what lies there.

    Args:
        path: A folder of files or of tar shards, a manifest, a shard, a pattern of shards ("train-{000..099}.tar",
            "*.tar"), a folder that `datasets` has saved, an address of shards that fsspec knows; text: a file of it.
        kind: The files that are looked for.
        run: Folder of the run, which is not searched. Where it has an index of many files, the listing waits until
            somebody asks for it.
        allow_roots: Folders that a manifest may name besides those below its own.
        thorough: Whether everything is to be compared with that index.

    Raises:
        DataError: There is nothing, or nothing that can be read.
    """
    try:
        begun = None if run is None or thorough else head_of(run)
        return replace(_find(path, kind, run, allow_roots, begun), thorough=thorough)
    except OSError as error:  # a name that is too long, a folder or a file that may not be read
        raise DataError(f"data: {path} cannot be read: {error.strerror or error}") from error


def _find(
    path: str | Path, kind: Kind, run: Path | None, allow_roots: Sequence[str], begun: Mapping[str, Any] | None
) -> Collection:
    if "://" in str(path):
        return together(expand(str(path)), kind)
    root = expanded(path)
    if "\0" in str(root):
        raise DataError(f"data: {str(path)!r} is no path: it holds a NUL")
    if not root.exists():
        found = expand(str(root)) if re.search(r"[{*?\[]", str(root)) else []
        if not found:
            raise DataError(f"data: there is nothing at {root} (looked in {Path.cwd()})")
        return together(found, kind)
    if root.is_dir():
        if tables.is_saved(root):
            return tables.saved(root, kind, allow_roots)
        return _folder(root, kind, run, begun)
    if root.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return archives.shards(root.parent, [root.name], kind)
    if manifest.is_manifest(root, kind):
        return manifest.read(root, kind, allow_roots, begun)
    extension = root.suffix.lower()
    if extension in kind.remedies:
        raise DataError(f"data: {root} is no {kind.wanted} file. {kind.remedies[extension]}.")
    if kind.documents and extension in kind.extensions:
        listing = Listing([root.name], np.array([root.stat().st_size], dtype=np.int64))
        return _files(root.parent, lambda: listing, kind)
    raise DataError(
        f"data: {root} is a file; {kind.modality} is read from a folder, a manifest "
        f"({', '.join(manifest.EXTENSIONS)}) or tar shards"
    )


def listed(data: object) -> list[str] | None:
    """A list of tar shards as addresses: of paths, or of what `fsspec.open` and `fsspec.open_files` give."""
    items = data if isinstance(data, (list, tuple)) else [data]
    names = [str(item) if isinstance(item, (str, Path)) else getattr(item, "full_name", None) for item in items]
    return [name for name in names if name is not None] if names and None not in names else None


def together(names: Sequence[str], kind: Kind) -> Collection:
    """Several shards as one corpus.

    Raises:
        DataError: One is gone, or no tar file.
    """
    if any("://" in name for name in names):
        return archives.shards(Path(), names, kind)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
    return archives.shards(Path(folder), [os.path.relpath(name, folder) for name in names], kind)


def one_file(path: str | Path, kind: Kind) -> Collection:
    """A file that is one sample.

    Raises:
        DataError: There is no such file, or it is none of this kind.
    """
    root = expanded(path)
    if "\0" in str(root) or not root.is_file():
        raise DataError(f"there is no file {str(path)!r}")
    listing = Listing([root.name], np.array([root.stat().st_size], dtype=np.int64))
    check_formats(root.parent, listing, kind.remedies, kind.wanted)
    if root.suffix.lower() not in kind.extensions:
        raise DataError(f"{root} is no {kind.wanted} file")
    return _files(root.parent, lambda: listing, kind)


def _folder(root: Path, kind: Kind, run: Path | None, begun: Mapping[str, Any] | None) -> Collection:
    if begun is not None and "extra" in begun:
        kept, shards = begun["extra"].get("files"), begun["extra"].get("containers", [])
        if kept is None and too_many(begun["files"]):
            return _files(root, cache(lambda: _listed(root, kind, run)), kind)
        if too_many(len(shards)) and kept.keys() == set(shards):
            return archives.shards(root, shards, kind)
    listing = _listed(root, kind, run)
    if listing.names and all(map(archives.is_archive, listing.names)):
        return archives.shards(root, listing.names, kind)
    return _files(root, lambda: listing, kind)


def _listed(root: Path, kind: Kind, run: Path | None) -> Listing:
    """The files of a folder; the archives, where there is nothing else."""
    listing = list_files(root, (*kind.extensions, archives.EXTENSION), run)
    packed = [archives.is_archive(name) for name in listing.names]
    if any(packed) and all(packed):
        return listing
    if any(packed):
        tell(f"left out {sum(packed)} .tar files in {root}: there are {kind.wanted} files beside them")
        keep = np.flatnonzero(~np.array(packed))
        listing = Listing([listing.names[i] for i in keep], listing.file_bytes[keep], listing.ignored)
    check_formats(root, listing, kind.remedies, kind.wanted)
    return listing


def _files(root: Path, listing: Callable[[], Listing], kind: Kind) -> Collection:
    def store(known: Listing | Index) -> FileStore:
        # documents are read once, when the index is made: what becomes of their files later does not matter
        compared = isinstance(known, Index) and not kind.documents
        return FileStore(root, known.names, file_bytes=known.file_bytes, compared=compared)

    def file_bytes(name: str) -> int:
        try:
            return (root / name).stat().st_size
        except OSError:
            return GONE

    return Collection(
        str(root),
        None,
        listing,
        store,
        kind.extensions,
        file_bytes=file_bytes,
        fields=lambda: _fields(root, listing().names),
    )


def _fields(root: Path, names: Sequence[str]) -> dict[str, beside.Fields]:
    """What the files beside those of a folder say."""
    folders: dict[str, set[str]] = {}
    lists: dict[str, dict[str, str]] = {}
    found: dict[str, beside.Fields] = {}
    for name in names:
        folder, file = os.path.split(beside.stem(name))
        if folder not in folders:
            folders[folder] = set(os.listdir(root / folder))
            lists[folder] = beside.transcripts(root / folder, folders[folder])
        there = [e for e in beside.ENDINGS if file + e in folders[folder] and beside.stem(name) + e != name]

        def read(ending: str, name: str = name) -> bytes:
            with (root / (beside.stem(name) + ending)).open("rb") as text:
                return text.read(beside.MOST_BYTES)

        found[name] = beside.fields_of(name, there, read)
        if file in lists[folder]:
            found[name].setdefault(DOCUMENT, lists[folder][file])
    return found


def expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar` is a-000.tar, a-001.tar and a-002.tar; `a-{x,y}.tar` two; * and ? are looked up."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is not None:
        before, after = pattern[: braces.start()], pattern[braces.end() :]
        return [name for choice in _choices(braces[1]) for name in expand(before + choice + after)]
    if "://" in pattern:
        return archives.remote_names(pattern)
    return sorted(glob.glob(str(expanded(pattern)))) if re.search(r"[*?\[]", pattern) else [pattern]


def _choices(braces: str) -> list[str]:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", braces)
    if ends is None:
        return braces.split(",")
    width = len(ends[1])
    if int(ends[2]) - int(ends[1]) >= _MOST:
        raise DataError(f"data: {{{braces}}} stands for more than {_MOST:,} files")
    return [f"{i:0{width}}" for i in range(int(ends[1]), int(ends[2]) + 1)]
