"""The index: which samples there are and how large each is, found once and kept in the run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.listing import Listing
from d2v_fast.data.scan import scan
from d2v_fast.data.store import Store
from d2v_fast.errors import DataError, OwnFile, SampleError, failed
from d2v_fast.files import write_whole
from d2v_fast.log import tell

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

    notes: dict[str, Any] = field(default_factory=dict)
    """What a later start has to know and no sample depends on: the endings that were looked for, whose tokenizer it
    is. Empty in an index that was made before there were notes."""

    @property
    def files(self) -> dict[str, int]:
        """Files that must not change, with their sizes in bytes."""
        return self.extra.get("files") or dict(zip(self.names, self.file_bytes.tolist(), strict=True))

    @property
    def containers(self) -> tuple[str, ...]:
        """The archives, relative to the root."""
        return tuple(self.extra.get("containers", ()))

    @property
    def spans(self) -> np.ndarray | None:
        """float64 [N, 2], which part of its file a sample is; see `Listing`."""
        found = self.extra.get("spans")
        return None if found is None else np.array(found, dtype=np.float64).reshape(-1, 2)

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
        lines = [json.dumps(head | {"extra": self.extra, "notes": self.notes})]
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
            DataError: The file is damaged, of another version or modality, or cannot be read just now.
        """
        try:
            with path.open(encoding="utf-8") as file:
                head = json.loads(file.readline())
                rows = [json.loads(line) for line in file]
            if head["format"] != _FORMAT:
                raise DataError(
                    f"{path} was written by another version of d2v_fast (format {head['format']}, this one reads "
                    f"{_FORMAT}): use that version for this run"
                )
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
                head.get("notes", {}),
            )
            if not isinstance(index.notes, dict):
                raise TypeError(f"notes {index.notes!r}")
            whole = index.fingerprint == head["fingerprint"]
        except OSError as error:
            raise DataError(
                f"{path} cannot be read just now ({error.strerror or error}); nothing says that it is damaged: see to "
                "the disk or the permissions and start again"
            ) from error
        except DataError:
            raise
        except Exception as error:  # of JSON, of wrong types, of numbers beyond 64 bits
            raise DataError(
                f"{path} is damaged ({type(error).__name__}: {error}): delete it, and the data is indexed again"
            ) from error
        if not whole:
            raise DataError(f"{path} is damaged: delete it, and the data is indexed again")
        return index


GONE = -1
"""The size of a file that is not there."""


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

    endings: tuple[str, ...] = ()
    """What the names of the files end in, where they were found by that."""

    fields: Callable[[], dict[str, dict[str, Any]]] | None = None
    """Reads what else is said about the samples, by their names: the other columns of a manifest or a table, the files
    or members beside a sample, its folder. Only labels need it."""


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
    path = None if run is None else run / FILE
    if path is not None and path.exists():
        index = Index.load(path, modality)
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
    if path is not None:
        index.save(path)
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
    extra: dict[str, Any] = {} if found.files is None else {"files": dict(found.files)}
    if listing.containers:
        extra["containers"] = list(listing.containers)
    keep = [i for i in range(len(listing.names)) if i not in ours]
    every = slice(None) if not ours else keep
    if listing.spans is not None:
        extra["spans"] = listing.spans[every].tolist()
    kept = {i: problems[old] for i, old in enumerate(keep) if old in problems}
    index = Index(
        modality,
        [listing.names[i] for i in keep],
        listing.file_bytes[every],
        sizes[every],
        kept,
        extra,
        None if listing.places is None else listing.places[every],
        {"endings": list(found.endings)},
    )
    return index, kept


def check_unchanged(
    path: Path, index: Index, found: Collection, read_header: Callable[[Store, int], tuple[int, ...]]
) -> dict[int, str]:
    """Compares the files there are with those the run began with.

    Files that are new do not matter if this program wrote them, or if the run did not look for such names.

    Returns:
        The samples whose files are gone, by number, with the words for it: they are broken ones.

    Raises:
        DataError: Names what is new or of another size; or everything is gone.
    """
    before, now = index.files, found.files
    listing = None
    if now is None:
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
            f"Put it back as it was, or start a new run in another folder ({path} lists the files of this one)."
        )
    return _of_gone(index, set(gone))


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
    except Exception:
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
    except OSError as error:
        raise DataError(f"{path} cannot be read just now ({error.strerror or error}): start again") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it, and it is written again") from error
    if not isinstance(before, dict):
        raise DataError(f"{path} is damaged: delete it, and it is written again")
    if before != now:
        changed = ", ".join(
            f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if before.get(key) != now[key]
        )
        raise DataError(f"data is not what this run began with: {changed}. Start a new run in another folder.")
