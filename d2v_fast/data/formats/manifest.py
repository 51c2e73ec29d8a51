"""Manifests: tables of paths, with or without sizes, as TSV, CSV, JSONL or Parquet.

A manifest names one root, the folder that its paths are relative to: TSV in its first line, as wav2vec has it; JSONL
in a first line {"d2v_fast": 1, "root": ...}; Parquet in the schema's metadata under "root". Without one, and in CSV
always, the root is the manifest's own folder.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Collection, Index
from d2v_fast.data.listing import Listing
from d2v_fast.data.store import ALLOW, Fence, FileStore, inside
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import report, tell

EXTENSIONS = (".jsonl", ".tsv", ".csv", ".parquet")
HEAD = "d2v_fast"
"""The key that tells the first line of a JSONL manifest from an entry."""

_MOST = 1 << 40
"""Sizes from here on are a mistake, or meant to do harm."""

PATHS = ("path", "audio_filepath", "file_name")
"""What the column of paths may be called: here, by NeMo, by the Hub's metadata files."""


def is_manifest(file: Path, kind: Kind) -> bool:
    """Whether a file is a table of paths; for text, and not a table of documents.

    Raises:
        DataError: Parquet without pyarrow.
    """
    extension = file.suffix.lower()
    if extension not in EXTENSIONS:
        return False
    if kind.modality != "text" or extension == ".tsv":
        return True
    if extension == ".parquet":
        return _path_column(parquet(file).schema_arrow.names) is not None
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline()
    if extension == ".csv":
        return _path_column(first.strip().split(",")) is not None
    try:
        entry = json.loads(first)
    except ValueError:
        return False
    return isinstance(entry, dict) and "text" not in entry and (HEAD in entry or _path_column(entry) is not None)


def read(file: Path, kind: Kind, allow_roots: Sequence[str] = ()) -> Collection:
    """The samples that a manifest names.

    Raises:
        DataError: It is damaged, describes another modality, or its root is neither in its folder nor allowed.
    """
    try:
        head = _head(file)
        root = _root(file, head.get("root"), allow_roots)
        if (modality := head.get("modality", kind.modality)) != kind.modality:
            raise DataError(f"data: {file} describes {modality}, the model is made for {kind.modality}")
        digest = hashlib.blake2b(digest_size=8)
        with file.open("rb") as raw:
            while block := raw.read(1 << 20):
                digest.update(block)
        files = {f"{file.name} {digest.hexdigest()}": file.stat().st_size}
    except OSError as error:
        raise DataError(f"data: {file} cannot be read: {error.strerror or error}") from error
    tell(f"{file} names files below {os.path.abspath(root)}")
    fence = Fence(root, allow_roots)

    def store(known: Listing | Index) -> FileStore:
        return FileStore(
            root,
            known.names,
            places=known.places,
            file_bytes=known.file_bytes,
            containers=known.containers,
            fence=fence,
        )

    return Collection(str(file), files, lambda: _list(file, kind, fence), store)


def _root(file: Path, named: str | None, allow_roots: Sequence[str]) -> Path:
    """The folder that the paths are relative to, if the manifest may name it."""
    home = file.absolute().parent
    root = home / Path(named or ".").expanduser()
    allowed = [home, *(Path(other).expanduser() for other in allow_roots)]
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
        meta = parquet(file).schema_arrow.metadata or {}
        return {key: meta[key.encode()].decode() for key in ("root", "modality") if key.encode() in meta}
    if extension == ".csv":
        return {}
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        first = lines.readline()
    if extension == ".tsv":
        if "\t" in first:
            raise DataError(f"data: the first line of {file} has a tab; it should be the folder that the paths are in")
        return {"root": first.rstrip("\r\n")}
    entry = _parse(first)
    return entry if isinstance(entry, dict) and HEAD in entry else {}


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def parquet(file: Any) -> Any:
    """A Parquet file, opened.

    Raises:
        DataError: pyarrow is not installed, or cannot read it.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"data: {file} is a Parquet file, which needs pyarrow: pip install 'd2v_fast[parquet]'"
        ) from error
    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise DataError(f"data: {file} is not a Parquet file: {error}") from error


def parquet_rows(table: Any, where: object, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of an opened Parquet file.

    Raises:
        DataError: It is damaged inside.
    """
    from pyarrow import ArrowException

    try:
        for batch in table.iter_batches(batch_size=1024, columns=list(columns)):
            yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"data: {where} is damaged: {error}") from error


@dataclass(frozen=True)
class Entry:
    """A row of a manifest."""

    path: str
    sizes: tuple[int, ...] | None = None
    bytes: int = -1
    member: str | None = None
    """The name inside the archive that `path` is."""

    offset: int = -1
    """The member's first byte."""


def entries(file: Path, kind: Kind) -> Iterator[tuple[int, Entry | str]]:
    """(line, what it says or what is wrong with it), without the head."""
    extension = file.suffix.lower()
    if extension == ".tsv":
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if number > 1 and (line := line.rstrip("\r\n")):
                    yield number, _from_columns(line.split("\t"), kind)
        return
    for number, row in _rows(file, extension, kind):
        yield number, row if isinstance(row, str) else _from_fields(row, kind)


def _rows(file: Path, extension: str, kind: Kind) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if extension == ".parquet":
        table = parquet(file)
        wanted = {*PATHS, *kind.fields, "bytes", "member", "offset"}
        yield from enumerate(parquet_rows(table, file, [c for c in table.schema_arrow.names if c in wanted]), 1)
        return
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        if extension == ".csv":
            rows = csv.DictReader(lines)
            if _path_column(rows.fieldnames or ()) is None:
                raise DataError(
                    f"data: {file} has no column {' or '.join(PATHS)}, only {', '.join(rows.fieldnames or ())}"
                )
            try:
                for row in rows:
                    yield rows.line_num, row
            except csv.Error as error:
                raise DataError(f"data: {file}, line {rows.line_num}: {error}") from error
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                entry = _parse(line)
                if not isinstance(entry, dict):
                    yield number, "is not a JSON object"
                elif number > 1 or HEAD not in entry:
                    yield number, entry


def _from_columns(columns: list[str], kind: Kind) -> Entry | str:
    """A line of a TSV: the path, then the sizes; of a clip perhaps the length alone."""
    path, *numbers = columns
    if kind.sample_rate is not None and len(numbers) == 1:
        numbers.append(str(kind.sample_rate))
    if not numbers:
        return Entry(path)
    try:
        sizes = tuple(_count(number) for number in numbers)
    except ValueError:
        sizes = ()
    if len(sizes) != len(kind.fields):
        return f"should be a path and {', '.join(kind.fields)}, separated by tabs: {columns}"
    return Entry(path, _known(sizes))


def _from_fields(row: dict[str, Any], kind: Kind) -> Entry | str:
    column = _path_column(row)
    if column is None or not isinstance(row[column], str) or not row[column]:
        return f"has no {' or '.join(PATHS)}"
    try:
        known = _known(tuple(_number(row, field) for field in kind.fields))
        member = row.get("member") or None
        entry = Entry(row[column], known, _number(row, "bytes"), member, _number(row, "offset"))
    except (ValueError, TypeError, OverflowError) as error:
        return f"has a size that cannot be: {error}"
    if entry.member is not None and (entry.offset < 0 or entry.bytes < 0):
        return "has a member, but not its offset and bytes"
    return entry


def _number(row: dict[str, Any], field: str) -> int:
    value = row.get(field)
    return -1 if value is None or value == "" else _count(value)


def _count(value: Any) -> int:
    number = int(value)
    if not -1 <= number < _MOST:
        raise ValueError(f"{value} is out of range")
    return number


def _known(sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sizes, if they can be those of a sample; otherwise its header is read."""
    return sizes if min(sizes[:2]) > 0 and min(sizes) >= 0 else None


def _is_name(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _path_column(columns: Any) -> str | None:
    return next((name for name in PATHS if name in columns), None)


def _list(file: Path, kind: Kind, fence: Fence) -> Listing:
    """All entries as a listing; what is wrong with a line is told, what is wrong with a path becomes the sample's."""
    names: list[str] = []
    sizes: list[tuple[int, ...]] = []
    places: list[tuple[int, int]] = []
    file_bytes: list[int] = []
    containers: dict[str, int] = {}
    problems: dict[int, str] = {}
    seen: set[str] = set()
    twice = 0
    for line, entry in entries(file, kind):
        if isinstance(entry, Entry) and not _is_name(entry.path + (entry.member or "")):
            entry = "has a name that no file can have"
        if isinstance(entry, str):
            report(f"{file}, line {line}", entry)
            continue
        path, place = entry.path, (-1, 0)
        try:
            path = fence.entry(entry.path)
            problem = kind.remedies.get(os.path.splitext(path)[1].lower()) if entry.member is None else None
        except SampleError as error:
            problem = error.reason
        name = path if entry.member is None else f"{path}/{entry.member}"
        if entry.member is not None:
            place = (containers.setdefault(path, len(containers)), entry.offset)
        if name in seen:
            twice += 1
            continue
        seen.add(name)
        if problem is not None:
            problems[len(names)] = problem
        names.append(name)
        sizes.append(entry.sizes or (-1,) * len(kind.fields))
        places.append(place)
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
    )
