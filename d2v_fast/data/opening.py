"""The index of a run is read, or made: the headers of all samples are looked at once.

A start that is interrupted while it makes the index goes on where it was, as long as the run has no index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.changes import check_unchanged
from d2v_fast.data.collection import Collection
from d2v_fast.data.headers import Look, headers
from d2v_fast.data.index import FILE, Index, index_file
from d2v_fast.data.journal import Journal
from d2v_fast.data.listing import Listing
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, OwnFile, SampleError
from d2v_fast.log import tell

PART = "index.part"
"""What a start that is interrupted while it reads headers has found out; gone when there is an index."""


def open_index(
    found: Collection,
    modality: str,
    read_header: Look,
    *,
    run: Path | None,
    threads: int,
    complete: Callable[[Index, Store], Index] | None = None,
) -> tuple[Index, Store]:
    """The index in `run`, after a check that the files are still the same, or a new one, saved there.

    Args:
        found: The samples.
        modality: Written into the index.
        read_header: Sizes of a sample by its number. Any exception makes the sample a broken one; `OwnFile` makes it
            none at all.
        run: Folder of the run; None keeps the index in memory.
        threads: Threads that read headers; processes, of very many.
        complete: Does what is to be done once and adds to `Index.extra`, before the index is saved. It keeps what it
            needs of the files: that one disappears later does not matter.

    Raises:
        DataError: The data is not what the run began with, or none of it can be read.
    """
    path = None if run is None else index_file(run)
    if path is not None and path.exists():
        index = Index.load(path, modality, all_of_it=found.thorough)
        gone = check_unchanged(path, index, found, read_header)
        if complete is None:
            index.problems.update(gone)
        return index, found.store(index)
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    listing = found.listing()
    if not listing.names:
        raise DataError(f"data: {found.where} is empty")
    journal = None
    if run is not None:
        journal = Journal(run / PART, {"where": os.path.abspath(found.where), "modality": modality})
    sizes, problems, ours = _read_headers(found, listing, read_header, threads, journal)
    index = _index(found, listing, modality, sizes, problems, ours)
    store, problems = found.store(index), index.problems
    if len(problems) == len(index.names):
        if not index.names:
            raise DataError(f"data: {found.where} has nothing but what this program wrote itself")
        first = min(problems)
        raise DataError(
            f"data: none of the {len(index.names)} files in {found.where} can be read; "
            f"{index.names[first]}: {problems[first]}"
        )
    if complete is not None:
        index = complete(index, store)
    if run is not None and journal is not None:
        index.save(run / FILE)
        journal.remove()
    return index, store


def _read_headers(
    found: Collection, listing: Listing, read_header: Look, threads: int, journal: Journal | None
) -> tuple[np.ndarray, dict[int, str], list[int]]:
    """What the headers of a listing say.

    Returns:
        Sizes, int64 [N, k], zeros where a header cannot be read; the reasons for these; the samples that are none.
    """
    names, problems = listing.names, dict(listing.problems)
    sizes = np.zeros((len(names), 0), dtype=np.int64) if listing.sizes is None else listing.sizes.astype(np.int64)
    missing = np.ones(len(names), dtype=bool) if listing.sizes is None else sizes.min(axis=1) < 0
    missing[list(problems)] = False
    if journal is not None and missing.any():
        known, before = journal.find(names, listing.file_bytes)
        if journal.continued:
            tell(f"continued: {journal.continued:,} samples were looked at before")
            sizes = _wide(sizes, before.shape[1])
            sizes[known], missing[known] = before, False
    ours = []
    with journal or nullcontext():
        unknown = np.flatnonzero(missing).tolist()
        for i, result in headers(read_header, found.store(listing), unknown, threads, "reading headers"):
            if isinstance(result, OwnFile):
                ours.append(i)
            elif isinstance(result, SampleError):
                problems[i] = result.reason
            else:
                sizes = _wide(sizes, len(result))
                sizes[i] = result
                if journal is not None:
                    journal.note(names[i], int(listing.file_bytes[i]), result)
    sizes[list(problems)] = 0
    return sizes, problems, ours


def _wide(sizes: np.ndarray, width: int) -> np.ndarray:
    """The sizes, or zeros of this width where there are none yet."""
    return sizes if sizes.shape[1] else np.zeros((len(sizes), width), dtype=np.int64)


def _index(
    found: Collection, listing: Listing, modality: str, sizes: np.ndarray, problems: Mapping[int, str], ours: list[int]
) -> Index:
    """The index of a listing without the files that this program wrote itself."""
    extra: dict[str, Any] = {} if found.files is None else {"files": dict(found.files())}
    if listing.containers:
        extra["containers"] = list(listing.containers)
    every: Any = slice(None)
    names: Sequence[str] = listing.names
    kept = dict(problems)
    if ours:
        every = np.delete(np.arange(len(names)), ours)
        names = [names[i] for i in every.tolist()]
        kept = {new: problems[old] for new, old in enumerate(every.tolist()) if old in problems}
    return Index(
        modality,
        names,
        listing.file_bytes[every],
        sizes[every],
        kept,
        extra,
        None if listing.places is None else listing.places[every],
        {"endings": list(found.endings), **found.notes},
        None if listing.spans is None else listing.spans[every],
    )
