"""Texts one by one, with what else is said about each: rows of tables, files of class folders, strings."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2v_fast.data.formats import beside, entries, manifest, parquet, tables
from d2v_fast.data.formats.find import find
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.listing import Listing
from d2v_fast.data.own import DOCUMENT
from d2v_fast.data.paths import expanded
from d2v_fast.data.store import MAX_BYTES
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import report

Rows = list[tuple[str, beside.Fields]]
"""A name and the fields of each text."""


def are_texts(data: object) -> bool:
    """Whether data is a list of strings, or of pairs of them, that are no addresses of archives."""
    if not isinstance(data, (list, tuple)) or not data:
        return False
    pairs = all(isinstance(item, (list, tuple)) and [type(text) for text in item] == [str, str] for item in data)
    return pairs or all(isinstance(item, str) and not item.lower().endswith(".tar") for item in data)


def texts(data: Any, kind: Kind) -> Rows:
    """Reads all texts.

    Args:
        data: A table (.jsonl, .csv, .tsv with a line of names, .parquet; a `datasets.Dataset`, or a saved one), a
            folder of .txt files or of tables, or a list of strings or pairs.
        kind: Of the modality that is made of texts.

    Raises:
        DataError: It is something else, or damaged.
    """
    if are_texts(data):
        pairs = [(item, None) if isinstance(item, str) else item for item in data]
        return [(f"text {i}", {DOCUMENT: text, "text_pair": pair}) for i, (text, pair) in enumerate(pairs)]
    if tables.is_table(data):
        return list(tables.columns(tables.split(data, f"the {type(data).__name__}")).items())
    if not isinstance(data, (str, Path)):
        raise DataError(f"data is a {type(data).__name__}; texts with labels are a table, a folder, or a list of them")
    path = expanded(data)
    if path.is_file() and path.suffix.lower() in manifest.EXTENSIONS:
        return list(_table(path, path.name))
    if path.is_dir() and tables.is_saved(path):
        return list(tables.columns(tables.split(tables.load(path), str(path))).items())
    found = find(path, kind, run=None)
    return list(_files(found.listing(), found.store, found.fields))


def _files(listing: Listing, store: Any, fields: Any) -> Iterator[tuple[str, beside.Fields]]:
    opened, about = store(listing), {} if fields is None else fields()
    for i, name in enumerate(listing.names):
        if opened.extension(i) != ".txt":
            path = opened.path(i)
            if path is None:
                raise DataError(f"data: {name} is a table in an archive: unpack it, or put .txt files there")
            yield from _table(path, name)
            continue
        row = dict(about.get(name, {}))
        try:
            row[DOCUMENT] = opened.read(i).tobytes().decode("utf-8-sig")
        except (SampleError, UnicodeDecodeError) as error:
            report(opened.label(i), str(error))
            row[DOCUMENT] = None
        yield name, row


def _table(file: Path, name: str) -> Iterator[tuple[str, beside.Fields]]:
    """The rows of one file; a line that is not understood is one without fields."""
    extension = file.suffix.lower()
    try:
        if extension == ".parquet":
            table = parquet.table(file)
            for number, row in enumerate(parquet.rows(table, file, table.schema_arrow.names), 1):
                yield f"{name}, row {number}", row
            return
        entries.check_encoding(file)
        if file.stat().st_size > MAX_BYTES * 16:
            raise DataError(f"data: {file} is too large for texts with labels, which are kept in memory")
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if extension == ".jsonl":
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{name}, line {number}", _object(line)
                return
            # GLUE's .tsv files have quotes that are never closed, so a quote means nothing there
            rows = (
                csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
                if extension == ".tsv"
                else csv.DictReader(lines, strict=True)
            )
            for row in rows:
                yield f"{name}, line {rows.line_num}", {key: value for key, value in row.items() if key is not None}
    except UnicodeDecodeError as error:
        raise DataError(f"data: {file} is not UTF-8 ({error.reason}): convert it") from error
    except csv.Error as error:
        raise DataError(f"data: {file} is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"data: {file} cannot be read: {error.strerror or error}") from error


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
