"""Whether the data still is what a run began with.

A start compares all files of a small corpus, and some of a large one: it must not take longer the more there are. Each
file is compared when it is read, too (`FileStore`), and `d2v-fast data check` compares all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from d2v_fast.data.collection import GONE, Collection
from d2v_fast.data.index import Index
from d2v_fast.data.listing import Listing
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, OwnFile
from d2v_fast.log import tell

COMPARED = 10_000
"""Files that a start compares one by one, a quarter of a second on a local disk; of more, and of more than `SPOTS`
remote ones, it compares `SPOTS`."""

SPOTS = 64


def check_unchanged(
    path: Path, index: Index, found: Collection, read_header: Callable[[Store, int], tuple[int, ...]]
) -> dict[int, str]:
    """Compares the files there are, or some of many, with those the run began with.

    Files that are new do not matter if this program wrote them, or if the run did not look for such names.

    Returns:
        The samples whose files are gone, by number, with the words for it: they are broken ones.

    Raises:
        DataError: Names what is new or of another size; or everything is gone.
    """
    if not found.thorough and _looks_unchanged(index, found):
        return {}
    before, listing = index.files, None
    if found.files is not None:
        now = found.files()
    else:
        listing = found.listing()
        now = dict(zip(listing.names, listing.file_bytes.tolist(), strict=True))
    if before == now:
        return {}
    gone = [name for name in before if now.get(name, GONE) == GONE and before[name] != GONE]
    new = _new(now, index, listing, found, read_header)
    other = [f"{n} ({before[n]} -> {now[n]} bytes)" for n in before if n in now and now[n] not in (before[n], GONE)]
    if new or other or len(gone) == len(before):
        changes = describe({"new": new, "gone": gone, "of another size": other})
        raise DataError(
            f"data: {found.where} is not what this run began with: {changes}. "
            "Put it back as it was, continue with what there is now by --data-changed (data_changed=True), or start a "
            f"new run in another folder ({path} lists the files of this one)."
        )
    return _of_gone(index, set(gone))


def too_many(files: int) -> bool:
    """Whether there are more files than a start lists and compares."""
    return files > COMPARED


def _looks_unchanged(index: Index, found: Collection) -> bool:
    """Whether there are too many files to compare them all, and those that were looked at are as they were.

    One that is gone is a broken sample when it comes, unless all of them are.
    """
    kept = index.extra.get("files")
    names: Sequence[str] = index.names if kept is None else list(kept)
    many = SPOTS if any("://" in name for name in names[:1]) else COMPARED
    if found.file_bytes is None or len(names) <= many:
        return False
    gone = 0
    for i in np.linspace(0, len(names) - 1, SPOTS).astype(int).tolist():
        before = int(index.file_bytes[i]) if kept is None else kept[names[i]]
        now = found.file_bytes(names[i])
        gone += now == GONE != before
        if now not in (before, GONE):
            return False
    return gone < SPOTS


def _new(
    now: Mapping[str, int],
    index: Index,
    listing: Listing | None,
    found: Collection,
    read_header: Callable[[Store, int], tuple[int, ...]],
) -> list[str]:
    """The new files that the run would have taken for samples at its first start."""
    new = [name for name in now if name not in index.files]
    if listing is None or not new:
        return new
    endings = index.notes.get("endings") or {os.path.splitext(name)[1].lower() for name in index.names}
    number, store = {name: i for i, name in enumerate(listing.names)}, found.store(listing)
    return [
        name
        for name in new
        if os.path.splitext(name)[1].lower() in endings and not _is_own(store, number[name], read_header)
    ]


def _is_own(store: Store, i: int, read_header: Callable[[Store, int], tuple[int, ...]]) -> bool:
    try:
        read_header(store, i)
    except OwnFile:
        return True
    except Exception:  # whatever is wrong with it, it is told where the file is read as data
        return False
    return False


def _of_gone(index: Index, gone: set[str]) -> dict[int, str]:
    """The samples of these files."""
    if not gone:
        return {}
    containers = index.containers

    def file_of(i: int) -> str:
        place = -1 if index.places is None else int(index.places[i, 0])
        return index.names[i] if place < 0 else containers[place]

    lost = {i: "is gone" for i in range(len(index.names)) if i not in index.problems and file_of(i) in gone}
    tell(f"{len(gone)} files of this run are gone ({', '.join(sorted(gone)[:3])}{', ...' if len(gone) > 3 else ''})")
    return lost


def describe(changes: Mapping[str, Sequence[str]], shown: int = 3) -> str:
    """`2 new (a, b), 1 gone (c)`."""
    parts = []
    for what, names in changes.items():
        if names:
            more = ", ..." if len(names) > shown else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:shown])}{more})")
    return ", ".join(parts)
