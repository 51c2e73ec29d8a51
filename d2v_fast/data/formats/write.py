"""Manifests as files: the counterpart of `manifest`, for every format that it reads."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.formats.manifest import EXTENSIONS
from d2v_fast.data.listing import Listing
from d2v_fast.data.own import HEAD
from d2v_fast.data.store import span_name
from d2v_fast.errors import DataError
from d2v_fast.files import naming


def check_target(file: Path, root: Path, listing: Listing) -> None:
    """Refuses a manifest that could not be written, before the work is done for it.

    Raises:
        DataError: Another extension, no folder to write into, Parquet without pyarrow, or a format that has no room
            for what is to be said.
    """
    extension = file.suffix.lower()
    if extension not in EXTENSIONS:
        raise DataError(f"--out: {file} should end in one of {', '.join(EXTENSIONS)}")
    if not file.absolute().parent.is_dir():
        raise DataError(f"--out: there is no folder {file.absolute().parent}")
    if file.is_dir():
        raise DataError(f"--out: {file} is a folder")
    if extension == ".tsv" and listing.places is not None:
        raise DataError(f"--out: {file}: TSV has no place for members of archives; use .jsonl, .csv or .parquet")
    if extension == ".tsv" and listing.spans is not None:
        raise DataError(f"--out: {file}: TSV has no place for parts of files; use .jsonl, .csv or .parquet")
    if extension == ".csv":
        _prefix(file, root)
    if extension == ".parquet":
        _arrow()


def write(file: Path, root: Path, listing: Listing, sizes: np.ndarray, kind: Kind, samples: Sequence[int]) -> None:
    """Writes a manifest, under a temporary name first.

    Args:
        file: Its extension is the format.
        root: The folder that the names are relative to.
        listing: The samples.
        sizes: int64 [N, k], what the headers say.
        kind: What the numbers are called.
        samples: The samples that go into it.

    Raises:
        OSError: It could not be written; the error names it.
    """
    with naming(file):
        _write(file, root, listing, sizes, kind, samples)


def _write(file: Path, root: Path, listing: Listing, sizes: np.ndarray, kind: Kind, samples: Sequence[int]) -> None:
    extension = file.suffix.lower()
    named = named_root(file, root)
    temporary = file.with_name(file.name + ".tmp")
    prefix = _prefix(file, root) if extension == ".csv" else ""
    columns = _columns(listing, sizes, kind, samples, prefix)
    if extension == ".parquet":
        pyarrow = _arrow()
        names = (named, *columns["path"], *columns.get("member", ()))
        if odd := [name for name in names if name is not None and not _is_unicode(name)]:
            raise DataError(f"--out: {file}: Parquet has no room for names that are not UTF-8 ({odd[0]}); use .jsonl")
        table = pyarrow.table(columns).replace_schema_metadata({HEAD: "1", "root": named, "modality": kind.modality})
        pyarrow.parquet.write_table(table, temporary)
    else:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as text:
            if extension == ".tsv":
                _write_tsv(text, named, columns, kind)
            elif extension == ".csv":
                rows = csv.writer(text)
                rows.writerow(columns)
                rows.writerows(zip(*columns.values(), strict=True))
            else:
                head = {HEAD: 1, "modality": kind.modality, "root": named, "samples": len(samples)}
                text.write(json.dumps(head) + "\n")
                for row in zip(*columns.values(), strict=True):
                    entry = dict(zip(columns, row, strict=True))
                    text.write(json.dumps(entry, ensure_ascii=not _is_unicode(entry["path"])) + "\n")
    with temporary.open("rb") as done:
        os.fsync(done.fileno())
    os.replace(temporary, file)


def named_root(file: Path, root: Path) -> str:
    """The root as the manifest names it: relative if it is below the manifest's own folder."""
    relative = os.path.relpath(root.absolute(), file.absolute().parent)
    return str(root.absolute()) if relative.split(os.sep)[0] == os.pardir else relative


def _prefix(file: Path, root: Path) -> str:
    named = named_root(file, root)
    if os.path.isabs(named):
        raise DataError(f"--out: {file}: CSV names no root; put it beside or above {root}, or use .jsonl")
    return "" if named == "." else f"{named}/"


def _columns(
    listing: Listing, sizes: np.ndarray, kind: Kind, samples: Sequence[int], prefix: str
) -> dict[str, list[Any]]:
    paths, members, offsets = [], [], []
    for i in samples:
        place = (-1, 0) if listing.places is None else listing.places[i].tolist()
        path = listing.names[i] if place[0] < 0 else listing.containers[place[0]]
        if listing.spans is not None:
            path = path.removesuffix(span_name(*listing.spans[i].tolist()))
        paths.append(prefix + path)
        members.append(None if place[0] < 0 else listing.names[i].removeprefix(f"{path}/"))
        offsets.append(None if place[0] < 0 else place[1])
    columns: dict[str, list[Any]] = {"path": paths}
    if listing.places is not None:
        columns |= {"member": members, "offset": offsets}
    if listing.spans is not None:
        parts = [listing.spans[i].tolist() for i in samples]
        begins = [None if length != length and start == 0 else start for start, length in parts]
        columns["offset"] = [byte if byte is not None else begin for byte, begin in zip(offsets, begins, strict=True)]
        columns["duration"] = [None if length != length else length for _, length in parts]
    columns["bytes"] = listing.file_bytes[list(samples)].tolist()
    numbers = sizes[list(samples)]
    columns |= {field: numbers[:, k].tolist() for k, field in enumerate(kind.fields)}
    return columns | (kind.columns(numbers) if kind.columns is not None else {})


def _write_tsv(text: io.TextIOBase, root: str, columns: dict[str, list[Any]], kind: Kind) -> None:
    """The layout of wav2vec: the root, then path and length; the sampling rate follows if it is not 16 kHz always."""
    fields = list(kind.fields)
    if kind.sample_rate is not None and set(columns[fields[-1]]) == {kind.sample_rate}:
        fields.pop()
    if odd := [path for path in (root, *columns["path"]) if any(c in path for c in "\t\r\n")]:
        raise DataError(f"--out: TSV has no room for names with tabs or line ends ({odd[0]!r}); use .jsonl")
    text.write(f"{root}\n")
    for row in zip(columns["path"], *(columns[field] for field in fields), strict=True):
        text.write("\t".join(map(str, row)) + "\n")


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file name that are not UTF-8
        return False
    return True


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except Exception as error:  # not there, or there and broken
        raise DataError("--out: Parquet needs pyarrow: pip install 'd2v_fast[parquet]'; or use .jsonl") from error
    return pyarrow
