"""The index: which files there are and how large each sample is, found once and kept in the run."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast.data.errors import DataError, SampleError, tell

FILE = "index.jsonl"
_FORMAT = 1
_PIECE = 128
"""Headers that a thread reads at a time."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder that may be samples, sorted by name."""

    names: list[str]
    """Paths relative to the folder, with forward slashes."""

    file_bytes: np.ndarray
    """int64 [N], size of each file."""

    ignored: Counter[str]
    """How many files of each other extension there are."""


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
    """What else the modality wants to keep (text: facts about tokens.bin)."""

    @property
    def fingerprint(self) -> str:
        """Hash of the names, the file sizes and the sample sizes."""
        digest = hashlib.blake2b(self.modality.encode(), digest_size=16)
        digest.update("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(self.file_bytes.astype("<i8").tobytes())
        digest.update(self.sizes.astype("<i8").tobytes())
        digest.update(json.dumps(self.extra, sort_keys=True).encode())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes a header line and one line per file, under a temporary name first."""
        head = {"format": _FORMAT, "modality": self.modality, "files": len(self.names), "fingerprint": self.fingerprint}
        lines = [json.dumps(head | {"extra": self.extra})]
        for i, name in enumerate(self.names):
            line = [name, int(self.file_bytes[i]), self.sizes[i].tolist()]
            lines.append(json.dumps([*line, self.problems[i]] if i in self.problems else line))
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
                {i: row[3] for i, row in enumerate(rows) if len(row) > 3},
                head["extra"],
            )
            whole = head["format"] == _FORMAT and index.fingerprint == head["fingerprint"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is damaged ({error}): delete it, and the data is indexed again") from error
        if not whole:
            raise DataError(f"{path} is damaged or of another version: delete it, and the data is indexed again")
        return index


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is either there as a whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def list_files(root: Path, extensions: Sequence[str], run: Path | None = None) -> Listing:
    """Finds the files below `root` with one of these extensions (".wav"), whatever their case.

    Names that begin with a dot are left out. Links are followed; a folder is entered once, so loops end. The folder
    `run` is not entered: what a run writes is not its data.

    Raises:
        DataError: A folder cannot be listed, or the run is to be written into the data folder itself.
    """
    found: list[tuple[str, int]] = []
    ignored: Counter[str] = Counter()
    entered = {_identity(run)} if run is not None and run.exists() else set()
    if _identity(root) in entered:
        raise DataError(f"data: {root} is also the folder of the run: write the run into another one")
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            if (identity := _identity(root / folder)) in entered:
                continue
            entered.add(identity)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"data: {root / folder} cannot be listed: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                folders.append(name)
            elif (extension := os.path.splitext(entry.name)[1].lower()) in extensions and _may_be_read(entry):
                found.append((name, _file_bytes(entry)))
            else:
                ignored[extension] += 1
    found.sort()
    return Listing([name for name, _ in found], np.array([size for _, size in found], dtype=np.int64), ignored)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Not a pipe or a device, which might keep us waiting; a link to nothing is kept, to be named as broken."""
    return entry.is_file() or entry.is_symlink()


def _file_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing
        return -1


def open_index(
    root: Path,
    modality: str,
    listing: Listing,
    read_header: Callable[[str], tuple[int, ...]],
    *,
    run: Path | None,
    threads: int,
    complete: Callable[[Index], Index] | None = None,
) -> Index:
    """The index in `run`, after a check that the files are still the same, or a new one, saved there.

    Args:
        root: The folder of the data, for messages.
        modality: Written into the index.
        listing: The files there are now.
        read_header: Sizes of a file by its relative name; raises SampleError for a broken one.
        run: Folder of the run; None keeps the index in memory.
        threads: Threads that read headers.
        complete: Does what is to be done once and adds to `Index.extra`, before the index is saved.
    """
    path = None if run is None else run / FILE
    if path is not None and path.exists():
        index = Index.load(path, modality)
        check_unchanged(root, path, index, listing)
        return index
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    sizes, problems = _read_headers(listing.names, read_header, threads)
    width = next((len(size) for size in sizes if size is not None), 0)
    if width == 0:
        first = min(problems)
        raise DataError(
            f"data: none of the {len(sizes)} files in {root} can be read; {listing.names[first]}: {problems[first]}"
        )
    table = np.array([size or (0,) * width for size in sizes], dtype=np.int64)
    index = Index(modality, listing.names, listing.file_bytes, table, dict(sorted(problems.items())))
    if complete is not None:
        index = complete(index)
    if path is not None:
        index.save(path)
    return index


def _read_headers(
    names: Sequence[str], read_header: Callable[[str], tuple[int, ...]], threads: int
) -> tuple[list[tuple[int, ...] | None], dict[int, str]]:
    """Sizes of all files, None where a header cannot be read, and the reasons for these."""
    problems: dict[int, str] = {}

    def headers(numbers: range) -> list[tuple[int, ...] | None]:
        sizes: list[tuple[int, ...] | None] = []
        for i in numbers:
            try:
                sizes.append(read_header(names[i]))
            except SampleError as error:
                problems[i] = error.reason
                sizes.append(None)
        return sizes

    pieces = [range(low, min(low + _PIECE, len(names))) for low in range(0, len(names), _PIECE)]
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="d2v-index")
    try:
        return [size for piece in pool.map(headers, pieces) for size in piece], problems
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for all the rest


def check_unchanged(root: Path, path: Path, index: Index, listing: Listing) -> None:
    """Compares the files there are with those the run began with.

    Raises:
        DataError: Names what is new, gone or of another size.
    """
    before = dict(zip(index.names, index.file_bytes.tolist(), strict=True))
    now = dict(zip(listing.names, listing.file_bytes.tolist(), strict=True))
    if before == now:
        return
    changes = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "of another size": [f"{n} ({before[n]} -> {now[n]} bytes)" for n in before if n in now and before[n] != now[n]],
    }
    raise DataError(
        f"data: {root} is not what this run began with: {describe(changes)}. "
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


def check_formats(root: Path, listing: Listing, remedies: Mapping[str, str], wanted: str) -> None:
    """Explains a folder without a single usable file, and tells about files that could be usable and are not.

    Args:
        root: The folder.
        listing: What was found there.
        remedies: What to do about known formats that cannot be read, by extension.
        wanted: The formats that can be, for the message.

    Raises:
        DataError: If the listing is empty.
    """
    known = sorted(extension for extension in listing.ignored if extension in remedies)
    if known:
        found = ", ".join(f"{listing.ignored[extension]} {extension}" for extension in known)
        problem = f"{root} has {found}, which cannot be read. {remedies[known[0]]}"
        if not listing.names:
            raise DataError(f"data: {problem}")
        tell(f"left out: {problem}")
    if listing.names:
        return
    if listing.ignored:
        found = ", ".join(
            f"{count} {extension or 'without extension'}" for extension, count in listing.ignored.most_common(5)
        )
        raise DataError(f"data: {root} has no {wanted} files, only {found}")
    raise DataError(f"data: {root} is empty; put {wanted} files into it (subfolders are searched too)")
