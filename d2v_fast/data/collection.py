"""Samples that were found but not looked at yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from d2v_fast.data.index import Index
from d2v_fast.data.listing import Listing
from d2v_fast.data.store import Store

GONE = -1
"""The size of a file that is not there."""


@dataclass(frozen=True)
class Collection:
    """Samples that were found but not looked at yet: a folder, a manifest, archives, rows of a table."""

    where: str
    """For messages."""

    files: Callable[[], Mapping[str, int]] | None
    """Looks at what must not change during a run: names and bytes, `GONE` for what is not there; None if that is the
    listing itself."""

    listing: Callable[[], Listing]
    """Finds the samples; may be slow."""

    store: Callable[[Listing | Index], Store]
    """Opens the samples of a listing, or those of an index that was made of it."""

    endings: tuple[str, ...] = ()
    """What the names of the files end in, where they were found by that."""

    notes: Mapping[str, Any] = field(default_factory=dict)
    """For `Index.notes`."""

    file_bytes: Callable[[str], int] | None = None
    """Bytes of one of these files, `GONE` if it is not there; None where `files` takes no time."""

    thorough: bool = False
    """Whether all that a run began with is to be compared, however large it is."""

    fields: Callable[[], dict[str, dict[str, Any]]] | None = None
    """Reads what else is said about the samples, by their names: the other columns of a manifest or a table, the files
    or members beside a sample, its folder. Only labels need it."""
