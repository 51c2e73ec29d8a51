"""Manifests: tables of paths, with or without sizes, as TSV, CSV, JSONL or Parquet.

A manifest names one root, the folder that its paths are relative to: TSV in its first line, as wav2vec has it; JSONL
in a first line {"d2v_fast": 1, "root": ...}; Parquet in the schema's metadata under "root". Without one, and in CSV
always, the root is the manifest's own folder.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2v_fast.data.collection import Collection
from d2v_fast.data.formats import parquet
from d2v_fast.data.formats.entries import Entry, check_encoding, entries, is_name, parse, path_column
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Index
from d2v_fast.data.listing import Listing
from d2v_fast.data.own import DOCUMENT, HEAD
from d2v_fast.data.paths import ALLOW, Fence, expanded, inside
from d2v_fast.data.store import FileStore, span_name
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import tell

_HASHED = 64 << 20
"""Manifests of more bytes are not read at every start; hashing less takes a tenth of a second at most."""

EXTENSIONS = (".jsonl", ".tsv", ".csv", ".parquet")


def is_manifest(file: Path, kind: Kind) -> bool:
    """Whether a file is a table of paths; for text, and not a table of documents.

    Raises:
        DataError: Parquet without pyarrow.
    """
    extension = file.suffix.lower()
    if extension not in EXTENSIONS:
        return False
    if not kind.documents or extension == ".tsv":
        return True
    if extension == ".parquet":
        return path_column(parquet.table(file).schema_arrow.names) is not None
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline()
    if extension == ".csv":
        return path_column(first.strip().split(",")) is not None
    entry = parse(first)
    return isinstance(entry, dict) and DOCUMENT not in entry and (HEAD in entry or path_column(entry) is not None)


def read(file: Path, kind: Kind, allow_roots: Sequence[str] = (), begun: Mapping[str, Any] | None = None) -> Collection:
    """The samples that a manifest names.

    Args:
        file: The manifest.
        kind: Of the samples.
        allow_roots: Folders that it may name besides those below its own.
        begun: The head of the index of a run that began with it: a large manifest that has not been written since is
            not read again.

    Raises:
        DataError: It is damaged, describes another modality, or its root is neither in its folder nor allowed.
    """
    try:
        check_encoding(file)
        head = _head(file)
        root = _root(file, head.get("root"), allow_roots)
        if (modality := head.get("modality", kind.modality)) != kind.modality:
            raise DataError(f"data: {file} describes {modality}, the model is made for {kind.modality}")
        status = file.stat()
        written = {"manifest": [status.st_size, status.st_mtime_ns]}
        if begun and status.st_size > _HASHED and begun.get("notes", {}).get("manifest") == written["manifest"]:
            files = begun["extra"]["files"]
        else:
            files = {f"{file.name} {_digest(file)}": status.st_size}
    except OSError as error:
        raise DataError(f"data: {file} cannot be read: {error.strerror or error}") from error
    tell(f"{file} names files below {os.path.abspath(root)}", logging.INFO)
    fence = Fence(root, allow_roots)

    def store(known: Listing | Index) -> FileStore:
        return FileStore(
            root,
            known.names,
            places=known.places,
            file_bytes=known.file_bytes,
            containers=known.containers,
            spans=known.spans,
            fence=fence,
        )

    return Collection(
        str(file),
        partial(dict, files),
        lambda: _list(file, kind, root, fence),
        store,
        notes=written,
        fields=lambda: {
            sample.name: dict(sample.entry.row) for sample in reversed([*_samples(file, kind, root, fence, True)])
        },
    )


def _digest(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with file.open("rb") as raw:
        while block := raw.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _root(file: Path, named: Any, allow_roots: Sequence[str]) -> Path:
    """The folder that the paths are relative to, if the manifest may name it."""
    if named is not None and (not isinstance(named, str) or not is_name(named)):
        raise DataError(f"data: {file}, line 1 names the root {named!r}, which is no path")
    home = file.absolute().parent
    root = home / expanded(named or ".", f"data: {file}, line 1, root")
    allowed = [home, *(expanded(other, ALLOW) for other in allow_roots)]
    if not any(inside(os.path.realpath(root), os.path.realpath(folder)) for folder in allowed):
        raise DataError(
            f"data: {file} names the root {root}, which is not below its own folder: if you trust it, allow that "
            f"folder by {ALLOW}"
        )
    if not root.is_dir():
        raise DataError(f"data: {file} names the root {root}, which is no folder")
    return file.parent if root == home else Path(os.path.normpath(root))


def _head(file: Path) -> dict[str, Any]:
    """What a manifest says about itself: root, modality."""
    extension = file.suffix.lower()
    if extension == ".parquet":
        meta = parquet.table(file).schema_arrow.metadata or {}
        return {key: os.fsdecode(meta[key.encode()]) for key in ("root", "modality") if key.encode() in meta}
    if extension == ".csv":
        return {}
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        first = lines.readline()
    if extension == ".tsv":
        if "\t" in first:
            raise DataError(f"data: the first line of {file} has a tab; it should be the folder that the paths are in")
        return {"root": first.rstrip("\r\n")}
    entry = parse(first)
    return entry if isinstance(entry, dict) and HEAD in entry else {}


class _Sample(NamedTuple):
    """An entry with the name that its sample has, and where it is."""

    name: str
    entry: Entry
    path: str
    problem: str | None


def _samples(file: Path, kind: Kind, root: Path, fence: Fence, whole: bool = False) -> Iterator[_Sample]:
    """All entries. A line that is not understood is a sample that cannot be read, called after it."""
    for line, entry in entries(file, kind, whole=whole):
        if isinstance(entry, Entry) and not is_name(entry.path + (entry.member or "")):
            entry = "has a name that no file can have"
        if isinstance(entry, str):
            path = os.path.relpath(f"{file}, line {line}", root)
            yield _Sample(path, Entry(path), path, entry)
            continue
        path, problem = entry.path, None
        try:
            path = fence.entry(entry.path)
            if entry.member is None:
                problem = kind.remedies.get(os.path.splitext(path)[1].lower())
        except SampleError as error:
            problem = error.reason
        name = path if entry.member is None else f"{path}/{entry.member}"
        if entry.span is not None:
            name += span_name(*entry.span)
        yield _Sample(name, entry, path, problem)


def _list(file: Path, kind: Kind, root: Path, fence: Fence) -> Listing:
    """All entries as a listing."""
    names: list[str] = []
    sizes: list[tuple[int, ...]] = []
    places: list[tuple[int, int]] = []
    spans: list[tuple[float, float]] = []
    file_bytes: list[int] = []
    containers: dict[str, int] = {}
    problems: dict[int, str] = {}
    seen: set[str] = set()
    twice = 0
    for name, entry, path, problem in _samples(file, kind, root, fence):
        if name in seen:
            twice += 1
            continue
        seen.add(name)
        place = (-1, 0)
        if entry.member is not None:
            place = (containers.setdefault(path, len(containers)), entry.offset)
        if problem is not None:
            problems[len(names)] = problem
        names.append(name)
        sizes.append(entry.sizes or (-1,) * len(kind.fields))
        places.append(place)
        spans.append(entry.span or (0.0, math.nan))
        file_bytes.append(entry.bytes)
    if twice:
        tell(f"left out {twice} entries of {file} that name a file again")
    if not names:
        raise DataError(f"data: {file} names no files")
    return Listing(
        names,
        np.array(file_bytes, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
        places=np.array(places, dtype=np.int64) if containers else None,
        containers=tuple(containers),
        problems=problems,
        spans=np.array(spans) if any(length == length or start for start, length in spans) else None,
    )
