"""The rows of a manifest: which file, or which part of one, each of them means."""

from __future__ import annotations

import codecs
import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from d2v_fast.data.formats import parquet
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.own import HEAD
from d2v_fast.errors import DataError

PATHS = ("path", "audio_filepath", "file_name")
"""What the column of paths may be called: here, by NeMo, by the Hub's metadata files."""

_MOST = 1 << 40
"""Sizes from here on are a mistake, or meant to do harm."""


def check_encoding(file: Path) -> None:
    """Refuses what PowerShell and Excel write, in which no line could be understood.

    Raises:
        DataError: The file is UTF-16 or UTF-32.
    """
    with file.open("rb") as raw:
        if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"data: {file} is written in UTF-16: save it as UTF-8")


def parse(line: str) -> Any:
    """What a line of JSON says; None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


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
        table = parquet.table(file)
        if path_column(table.schema_arrow.names) is None:
            raise DataError(
                f"data: {file} has no column {' or '.join(PATHS)}, only {', '.join(table.schema_arrow.names)}: a "
                "manifest names a file in each row. Give samples that are in the rows themselves as arrays, "
                "from Python, or encoded files (sound, pictures) as a table of Hugging Face datasets"
            )
        wanted = {*PATHS, *kind.fields, "bytes", "member", "offset", "duration"}
        columns = [column for column in table.schema_arrow.names if whole or column in wanted]
        yield from enumerate(parquet.rows(table, file, columns), 1)
        return
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        if extension == ".csv":
            # strict: a quote that is never closed would else swallow all lines behind it
            rows = csv.DictReader(lines, strict=True)
            try:
                if path_column(rows.fieldnames or ()) is None:
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
                entry = parse(line)
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
    column = path_column([name for name in PATHS if not _is_unknown(row.get(name))])
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


def path_column(columns: Any) -> str | None:
    """The column of paths, if there is one."""
    return next((name for name in PATHS if name in columns), None)
