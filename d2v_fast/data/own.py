"""Names that this program gives, and how it knows again what it wrote: its pictures and lists are not data."""

from __future__ import annotations

import json
import os
from typing import BinaryIO

PICTURE = "data-show.png"
"""What `data show` calls its picture if nobody says."""

SOFTWARE = "d2v-fast"
"""The software that its pictures name (the PNG text chunk "Software"), whatever they are called."""

HEAD = "d2v_fast"
"""The key that tells the first line of a JSONL manifest, or the metadata of a Parquet one, from those of others."""

DOCUMENT = "text"
"""The key, or the column, of a document in a table of documents, which is no list of files."""

BROKEN = ".broken.jsonl"
"""What the list beside a manifest ends in that says what was left out."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FIRST = 256
"""Bytes in which a PNG names its software."""


def is_own_picture(label: str, file: BinaryIO) -> bool:
    """Whether this program has drawn a picture; reads from the beginning of the file."""
    head = file.read(_FIRST)
    return os.path.basename(label) == PICTURE or (head.startswith(_PNG) and f"Software\0{SOFTWARE}".encode() in head)


def is_own_list(label: str, first: str) -> bool:
    """Whether a JSONL file is a manifest, a list of broken samples, or an index, by its name and its first line."""
    try:
        entry = json.loads(first)
    except (ValueError, RecursionError):
        return False
    if not isinstance(entry, dict) or DOCUMENT in entry:
        return False
    broken = label.endswith(BROKEN) and {"path", "reason"} <= entry.keys()
    return broken or HEAD in entry or {"format", "modality", "fingerprint"} <= entry.keys()
