"""Manifests: tables of paths, with or without sizes, as TSV, CSV, JSONL or Parquet.

A manifest names one root, the folder that its paths are relative to: TSV in its first line, as wav2vec has it; JSONL
in a first line {"d2v_fast": 1, "root": ...}; Parquet in the schema's metadata under "root". Without one, and in CSV
always, the root is the manifest's own folder.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Collection, Index
from d2v_fast.data.listing import Listing
from d2v_fast.data.own import DOCUMENT, HEAD
from d2v_fast.data.store import ALLOW, Fence, FileStore, expanded, inside, span_name
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import tell

EXTENSIONS = (".jsonl", ".tsv", ".csv", ".parquet")
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
    if not kind.documents or extension == ".tsv":
        return True
    if extension == ".parquet":
        return _path_column(parquet(file).schema_arrow.names) is not None
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline()
    if extension == ".csv":
        return _path_column(first.strip().split(",")) is not None
    entry = _parse(first)
    return isinstance(entry, dict) and DOCUMENT not in entry and (HEAD in entry or _path_column(entry) is not None)


def read(file: Path, kind: Kind, allow_roots: Sequence[str] = ()) -> Collection:
    """The samples that a manifest names.

    Raises:
        DataError: It is damaged, describes another modality, or its root is neither in its folder nor allowed.
    """
    try:
        check_encoding(file)
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
        files,
        lambda: _list(file, kind, root, fence),
        store,
        fields=lambda: {
            sample.name: dict(sample.entry.row) for sample in reversed([*_samples(file, kind, root, fence, True)])
        },
    )


def check_encoding(file: Path) -> None:
    """Refuses what PowerShell and Excel write, in which no line could be understood.

    Raises:
        DataError: The file is UTF-16 or UTF-32.
    """
    with file.open("rb") as raw:
        if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"data: {file} is written in UTF-16: save it as UTF-8")


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
        meta = parquet(file).schema_arrow.metadata or {}
        return {key: os.fsdecode(meta[key.encode()]) for key in ("root", "modality") if key.encode() in meta}
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
        from pyarrow.parquet import ParquetFile
    except Exception as error:  # not there, or there and broken
        raise DataError(
            f"data: {file} is a Parquet file, which needs pyarrow: pip install 'd2v_fast[parquet]' "
            f"({type(error).__name__}: {error})"
        ) from error
    try:
        return ParquetFile(file)
    except Exception as error:  # pyarrow's errors are of many kinds
        raise DataError(f"data: {file} is not a Parquet file: {error}") from error


def parquet_rows(table: Any, where: object, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of an opened Parquet file.

    Raises:
        DataError: It is damaged inside.
    """
    batches = table.iter_batches(batch_size=1024, columns=list(columns))
    while True:
        try:
            rows = next(batches).to_pylist()
        except StopIteration:
            return
        except Exception as error:  # pyarrow's errors are of many kinds
            raise DataError(f"data: {where} is damaged: {type(error).__name__}: {error}") from error
        yield from rows


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

    span: tuple[float, float] | None = None
    """The part of the file that is meant: first second and seconds, nan for all that follow."""

    row: Mapping[str, Any] = field(default_factory=dict)
    """The row as it stands there, where its columns have names."""


def entries(file: Path, kind: Kind, *, whole: bool = False) -> Iterator[tuple[int, Entry | str]]:
    """(line, what it says or what is wrong with it), without the head.

    Args:
        file: The manifest.
        kind: What it lists.
        whole: Whether all columns are wanted in `Entry.row`, not only those that describe the file.
    """
    extension = file.suffix.lower()
    if extension == ".tsv":
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if number > 1 and (line := line.rstrip("\r\n")):
                    yield number, _from_columns(line.split("\t"), kind)
        return
    for number, row in _rows(file, extension, kind, whole):
        if isinstance(row, str):
            yield number, row
        else:
            entry = _from_fields(row, kind)
            yield number, replace(entry, row=row) if whole and isinstance(entry, Entry) else entry


def _rows(file: Path, extension: str, kind: Kind, whole: bool) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if extension == ".parquet":
        table = parquet(file)
        wanted = {*PATHS, *kind.fields, "bytes", "member", "offset", "duration"}
        columns = [column for column in table.schema_arrow.names if whole or column in wanted]
        yield from enumerate(parquet_rows(table, file, columns), 1)
        return
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        if extension == ".csv":
            # strict: a quote that is never closed would else swallow all lines behind it
            rows = csv.DictReader(lines, strict=True)
            try:
                if _path_column(rows.fieldnames or ()) is None:
                    raise DataError(
                        f"data: {file} has no column {' or '.join(PATHS)}, only {', '.join(rows.fieldnames or ())}"
                    )
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
    if not path:
        return "has no path"
    if not numbers:
        return Entry(path)
    try:
        sizes = tuple(_count(number) for number in numbers)
    except (ValueError, OverflowError):
        sizes = ()
    if len(sizes) != len(kind.fields):
        return f"should be a path and {', '.join(kind.fields)}, separated by tabs: {columns}"
    return Entry(path, _known(sizes))


def _from_fields(row: dict[str, Any], kind: Kind) -> Entry | str:
    # of a table put together from several, the column that says something in this row
    column = _path_column([name for name in PATHS if not _is_unknown(row.get(name))])
    if column is None or not isinstance(row[column], str):
        return f"has no {' or '.join(PATHS)}"
    member = row.get("member")
    try:
        known = _known(tuple(_count(row.get(field)) for field in kind.fields))
        size = _count(row.get("bytes"))
        if member is None or member == "" or member != member:  # NaN is what pandas makes of nothing
            return Entry(row[column], known, size, span=_span(row) if kind.segments else None)
        offset = _count(row.get("offset"))
    except (ValueError, TypeError, OverflowError) as error:
        return f"has a size that cannot be: {error}"
    if not isinstance(member, str):
        return f"has a member that is no name: {member!r}"
    if offset < 0 or size < 0:
        return "has a member, but not its offset and bytes"
    return Entry(row[column], known, size, member, offset)


def _span(row: dict[str, Any]) -> tuple[float, float] | None:
    """NeMo's `offset` and `duration` in seconds. Without an offset a duration is that of the whole file."""
    if _is_unknown(row.get("offset")):
        return None
    start, length = _seconds(row["offset"]), _seconds(row.get("duration"))
    if not 0 <= start < _MOST or length <= 0 or length > _MOST:
        raise ValueError(f"a part of {length:g} s from {start:g} s on")
    return None if start == 0 and math.isnan(length) else (start, length)


def _seconds(value: Any) -> float:
    """A number of seconds; nan if it is not known."""
    if isinstance(value, bool):
        raise TypeError(f"{value} is no number")
    return math.nan if _is_unknown(value) else float(value)


def _count(value: Any) -> int:
    """A whole number, however it is written (8, "8", "8.0"); -1 if it is not known."""
    if _is_unknown(value):
        return -1
    if isinstance(value, bool):
        raise TypeError(f"{value} is no number")
    try:
        number = int(value)
    except ValueError:
        number = int(float(value))
    if number != value and number != float(value):
        raise ValueError(f"{value} is no whole number")
    if not -1 <= number < _MOST:
        raise ValueError(f"{value} is out of range")
    return number


def _is_unknown(value: Any) -> bool:
    """Whether a field is empty, as tables have it: nothing, NaN, or one of the words for these."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan", "none", "null", "na", "n/a", "<na>")
    return value is None or (isinstance(value, float) and math.isnan(value))


def _known(sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sizes, if they can be those of a sample; otherwise its header is read."""
    return sizes if min(sizes[:2]) > 0 and min(sizes) >= 0 else None


def is_name(name: str) -> bool:
    """Whether a file could be called that."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _path_column(columns: Any) -> str | None:
    return next((name for name in PATHS if name in columns), None)


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
