"""The index of a run is read, or made: the headers of all samples are looked at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.changes import check_unchanged
from d2v_fast.data.collection import Collection
from d2v_fast.data.index import FILE, Index, index_file
from d2v_fast.data.listing import Listing
from d2v_fast.data.scan import scan
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, OwnFile, SampleError, failed


def open_index(
    found: Collection,
    modality: str,
    read_header: Callable[[Store, int], tuple[int, ...]],
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
        threads: Threads that read headers.
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
    index, problems = _read_headers(found, listing, modality, read_header, threads)
    store = found.store(index)
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
    if run is not None:
        index.save(run / FILE)
    return index, store


def _read_headers(
    found: Collection,
    listing: Listing,
    modality: str,
    read_header: Callable[[Store, int], tuple[int, ...]],
    threads: int,
) -> tuple[Index, dict[int, str]]:
    """The index of a listing: sizes, zeros where a header cannot be read, and the reasons for these."""
    store = found.store(listing)

    def header(i: int) -> tuple[int, ...] | SampleError:
        try:
            return read_header(store, i)
        except Exception as error:
            return failed(store.label(i), error)

    problems, known = dict(listing.problems), listing.sizes
    unknown = [i for i in range(len(listing.names)) if i not in problems and (known is None or int(known[i].min()) < 0)]
    read: dict[int, tuple[int, ...]] = {}
    ours: set[int] = set()
    for i, result in zip(unknown, scan(header, unknown, threads, "reading headers"), strict=True):
        if isinstance(result, OwnFile):
            ours.add(i)
        elif isinstance(result, SampleError):
            problems[i] = result.reason
        else:
            read[i] = result
    width = known.shape[1] if known is not None else len(next(iter(read.values()), (0,)))
    sizes = np.zeros((len(listing.names), width), dtype=np.int64)
    if known is not None:
        sizes[:] = known
    if read:
        sizes[list(read)] = list(read.values())
    if problems:
        sizes[list(problems)] = 0
    extra: dict[str, Any] = {} if found.files is None else {"files": dict(found.files())}
    if listing.containers:
        extra["containers"] = list(listing.containers)
    keep = [i for i in range(len(listing.names)) if i not in ours]
    every = slice(None) if not ours else keep
    kept = {i: problems[old] for i, old in enumerate(keep) if old in problems}
    index = Index(
        modality,
        [listing.names[i] for i in keep],
        listing.file_bytes[every],
        sizes[every],
        kept,
        extra,
        None if listing.places is None else listing.places[every],
        {"endings": list(found.endings), **found.notes},
        None if listing.spans is None else listing.spans[every],
    )
    return index, kept
