"""The index: which samples there are and how large each is, found once and kept in the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.listing import Listing
from d2v_fast.data.scan import scan
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, SampleError
from d2v_fast.files import write_whole

FILE = "index.jsonl"
_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """A listing with what the headers say."""

    modality: str
    names: list[str]
    file_bytes: np.ndarray
    sizes: np.ndarray
    """int64 [N, k], what the modality's header reader returns; zeros for an unreadable file."""

    problems: dict[int, str]
    """Why a file is unreadable, by its number."""

    extra: dict[str, Any] = field(default_factory=dict)
    """What else there is to keep: the files that must not change, where these are not the samples; archives; text:
    facts about tokens.bin."""

    places: np.ndarray | None = None
    """int64 [N, 2], where in its archive a sample lies; see `Listing`."""

    @property
    def files(self) -> dict[str, int]:
        """Files that must not change, with their sizes in bytes."""
        return self.extra.get("files") or dict(zip(self.names, self.file_bytes.tolist(), strict=True))

    @property
    def containers(self) -> tuple[str, ...]:
        """The archives, relative to the root."""
        return tuple(self.extra.get("containers", ()))

    @property
    def fingerprint(self) -> str:
        """Hash of the names, the file sizes and the sample sizes."""
        digest = hashlib.blake2b(self.modality.encode(), digest_size=16)
        digest.update("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(self.file_bytes.astype("<i8").tobytes())
        digest.update(self.sizes.astype("<i8").tobytes())
        digest.update(json.dumps(self.extra, sort_keys=True).encode())
        if self.places is not None:
            digest.update(self.places.astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes a header line and one line per file, under a temporary name first."""
        head = {"format": _FORMAT, "modality": self.modality, "files": len(self.names), "fingerprint": self.fingerprint}
        lines = [json.dumps(head | {"extra": self.extra})]
        for i, name in enumerate(self.names):
            line: list[Any] = [name, int(self.file_bytes[i]), self.sizes[i].tolist()]
            if i in self.problems or self.places is not None:
                line.append(self.problems.get(i))
            if self.places is not None:
                line.append(self.places[i].tolist())
            lines.append(json.dumps(line))
        write_whole(path, "\n".join(lines) + "\n")

    @staticmethod
    def load(path: Path, modality: str) -> Index:
        """Reads what `save` wrote.

        Raises:
            DataError: The file is damaged or of another modality.
        """
        try:
            with path.open(encoding="utf-8") as file:
                head = json.loads(file.readline())
                rows = [json.loads(line) for line in file]
            if head["modality"] != modality:
                raise DataError(f"{path} describes {head['modality']}, not {modality}: use another folder for this run")
            if "files" not in head:
                raise DataError(f"{path} belongs to a DataSource, not to files: use another folder for this run")
            index = Index(
                modality,
                [row[0] for row in rows],
                np.array([row[1] for row in rows], dtype=np.int64),
                np.array([row[2] for row in rows], dtype=np.int64),
                {i: row[3] for i, row in enumerate(rows) if len(row) > 3 and row[3] is not None},
                head["extra"],
                np.array([row[4] for row in rows], dtype=np.int64) if rows and len(rows[0]) > 4 else None,
            )
            whole = head["format"] == _FORMAT and index.fingerprint == head["fingerprint"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is damaged ({error}): delete it, and the data is indexed again") from error
        if not whole:
            raise DataError(f"{path} is damaged or of another version: delete it, and the data is indexed again")
        return index


@dataclass(frozen=True)
class Collection:
    """Samples that were found but not looked at yet: a folder, a manifest, archives, rows of a table."""

    where: str
    """For messages."""

    files: Mapping[str, int] | None
    """What must not change during a run, and its size in bytes; None if that is the listing itself."""

    listing: Callable[[], Listing]
    """Finds the samples; may be slow."""

    store: Callable[[Listing | Index], Store]
    """Opens the samples of a listing, or those of an index that was made of it."""


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
        read_header: Sizes of a sample by its number; raises SampleError for a broken one.
        run: Folder of the run; None keeps the index in memory.
        threads: Threads that read headers.
        complete: Does what is to be done once and adds to `Index.extra`, before the index is saved.

    Raises:
        DataError: The data is not what the run began with, or none of it can be read.
    """
    path = None if run is None else run / FILE
    if path is not None and path.exists():
        index = Index.load(path, modality)
        check_unchanged(found.where, path, index, found)
        return index, found.store(index)
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    listing = found.listing()
    store = found.store(listing)
    sizes, problems = _read_headers(store, listing, read_header, threads)
    extra: dict[str, Any] = {} if found.files is None else {"files": dict(found.files)}
    if listing.containers:
        extra["containers"] = list(listing.containers)
    index = Index(modality, listing.names, listing.file_bytes, sizes, problems, extra, listing.places)
    if len(problems) == len(index.names):
        first = min(problems)
        raise DataError(
            f"data: none of the {len(sizes)} files in {found.where} can be read; "
            f"{listing.names[first]}: {problems[first]}"
        )
    if complete is not None:
        index = complete(index, store)
    if path is not None:
        index.save(path)
    return index, store


def _read_headers(
    store: Store, listing: Listing, read_header: Callable[[Store, int], tuple[int, ...]], threads: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Sizes of all samples, zeros where a header cannot be read, and the reasons for these."""

    def header(i: int) -> tuple[int, ...] | str:
        try:
            return read_header(store, i)
        except SampleError as error:
            return error.reason

    problems, known = dict(listing.problems), listing.sizes
    unknown = [i for i in range(len(listing.names)) if i not in problems and (known is None or int(known[i].min()) < 0)]
    read: dict[int, tuple[int, ...]] = {}
    for i, result in zip(unknown, scan(header, unknown, threads, "reading headers"), strict=True):
        if isinstance(result, str):
            problems[i] = result
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
    return sizes, dict(sorted(problems.items()))


def check_unchanged(where: str, path: Path, index: Index, found: Collection) -> None:
    """Compares the files there are with those the run began with.

    Raises:
        DataError: Names what is new, gone or of another size.
    """
    before, now = index.files, found.files
    if now is None:
        listing = found.listing()
        now = dict(zip(listing.names, listing.file_bytes.tolist(), strict=True))
    if before == now:
        return
    changes = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "of another size": [f"{n} ({before[n]} -> {now[n]} bytes)" for n in before if n in now and before[n] != now[n]],
    }
    raise DataError(
        f"data: {where} is not what this run began with: {describe(changes)}. "
        f"Put the files back, or start a new run in another folder ({path} lists the files of this one)."
    )


def describe(changes: Mapping[str, Sequence[str]], shown: int = 3) -> str:
    """`2 new (a, b), 1 gone (c)`."""
    parts = []
    for what, names in changes.items():
        if names:
            more = ", ..." if len(names) > shown else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:shown])}{more})")
    return ", ".join(parts)


def check_fingerprint(run: Path, modality: str, samples: int, fingerprint: str) -> None:
    """Keeps the fingerprint of a source of one's own in `run`, or compares it with the one kept there.

    Raises:
        DataError: The run began with other data.
    """
    path = run / FILE
    now = {"format": _FORMAT, "modality": modality, "samples": samples, "fingerprint": fingerprint}
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(now) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0])
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): delete it, and it is written again") from error
    if before != now:
        changed = ", ".join(
            f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if before.get(key) != now[key]
        )
        raise DataError(f"data is not what this run began with: {changed}. Start a new run in another folder.")
