"""A file of columns: arrays behind a line of JSON, memory-mapped: opening it costs the same for any number of rows.

Line 1 is a JSON object; its "columns" says for each column its dtype, shape, first byte and hash, and "data" how many
bytes there are behind the head. Line 2 is the hash of line 1. From the next multiple of 64 on the columns follow.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.files import whole_file

HASHED = 64 << 20
"""Files up to so many bytes are compared with their hashes whenever they are opened, in less than a tenth of a second;
of larger ones only the head and the length, unless all of it is asked for."""

_ALIGNED = 64
_PIECE = 1 << 24
_LONGEST_HEAD = 1 << 30


class Damaged(Exception):
    """What a file of columns holds is not what was written."""


def write_columns(path: Path, head: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns under a temporary name and renames the file.

    Args:
        path: Of the file.
        head: What JSON can say.
        columns: Arrays of any shape, also memory-mapped ones: no column is copied as a whole.

    Raises:
        OSError: It could not be written; what was at `path` is still there.
    """
    places: dict[str, Any] = {}
    at = 0
    for name, column in columns.items():
        at = _aligned(at)
        digest = hashlib.blake2b(digest_size=16)
        for piece in _pieces(column):
            digest.update(piece)
        places[name] = [column.dtype.newbyteorder("<").str, list(column.shape), at, digest.hexdigest()]
        at += column.nbytes
    line = json.dumps({**head, "columns": places, "data": at}).encode()
    start = b"%s\n%s\n" % (line, _hash(line))
    with whole_file(path) as file:
        file.write(start.ljust(_aligned(len(start)), b"\0"))
        written = 0
        for name, column in columns.items():
            file.write(b"\0" * (places[name][2] - written))
            for piece in _pieces(column):
                file.write(piece)
            written = places[name][2] + column.nbytes


def read_head(path: Path) -> dict[str, Any]:
    """The head of a file of columns, without "columns" and "data".

    Raises:
        Damaged: It is not what was written.
        OSError: It cannot be read.
    """
    return _head(path)[0]


def read_columns(path: Path, *, all_of_it: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The head and the columns, as memory-mapped arrays that cannot be written to.

    Args:
        path: Of the file.
        all_of_it: Compare every column with its hash, however large it is.

    Raises:
        Damaged: It is not what was written.
        OSError: It cannot be read.
    """
    head, places, start, size = _head(path)
    there = os.stat(path).st_size
    if there != start + size:
        raise Damaged(f"it has {there} bytes instead of {start + size}")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    columns = {}
    for name, (dtype, shape, first, digest) in places.items():
        column = np.frombuffer(mapped, np.dtype(dtype), math.prod(shape), start + first).reshape(shape)
        if all_of_it or size <= HASHED:
            found = hashlib.blake2b(digest_size=16)
            for piece in _pieces(column):
                found.update(piece)
            if found.hexdigest() != digest:
                raise Damaged(f"the hash of its column {name!r} is not that of what was written")
        columns[name] = column
    return head, columns


def _head(path: Path) -> tuple[dict[str, Any], dict[str, Any], int, int]:
    """The head, where its columns lie, the first byte of the columns, and how many bytes they have."""
    with path.open("rb") as file:
        line, known = file.readline(_LONGEST_HEAD), file.readline(64)
    if known != _hash(line[:-1]) + b"\n":
        raise Damaged("its head is not what was written")
    head = json.loads(line)
    places, size = head.pop("columns"), head.pop("data")
    return head, places, _aligned(len(line) + len(known)), size


def _hash(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).hexdigest().encode()


def _aligned(at: int) -> int:
    return -(-at // _ALIGNED) * _ALIGNED


def _pieces(column: np.ndarray) -> Any:
    """The bytes of an array, row by row in its order, little-endian, some at a time."""
    rows = max(1, _PIECE * len(column) // max(1, column.nbytes))
    for low in range(0, len(column), rows):
        piece = column[low : low + rows]
        yield np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).data.cast("B")
