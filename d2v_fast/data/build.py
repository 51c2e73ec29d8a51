"""`d2v-fast data build`: looks at every sample once, and writes a manifest of those that can be read.

What was found out is kept beside the manifest in MANIFEST.part, a line for each sample, until the manifest is written:
a scan that is interrupted, by whatever, continues where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2v_fast import registry
from d2v_fast.data.formats import Kind, archives, find, manifest, tables
from d2v_fast.data.formats.entries import check_encoding, entries
from d2v_fast.data.formats.find import expand
from d2v_fast.data.formats.write import check_target, named_root, write
from d2v_fast.data.listing import Listing, list_files
from d2v_fast.data.own import BROKEN
from d2v_fast.data.paths import Fence, expanded
from d2v_fast.data.protocol import modality_of
from d2v_fast.data.scan import scan
from d2v_fast.data.store import FileStore, Store
from d2v_fast.errors import DataError, OwnFile, SampleError, failed
from d2v_fast.files import write_whole
from d2v_fast.log import report, tell


@dataclass(frozen=True)
class Built:
    """What a scan found."""

    kind: Kind
    root: Path
    listing: Listing
    sizes: np.ndarray
    """int64 [N, k], what the headers say."""

    problems: dict[int, str]
    """Why a sample was left out."""

    continued: int
    """Samples that an interrupted scan had looked at."""

    ours: frozenset[int] = frozenset()
    """Files that this program wrote itself: left out and no fault."""

    @property
    def good(self) -> list[int]:
        """The samples that went into the manifest."""
        return [i for i in range(len(self.listing.names)) if i not in self.problems and i not in self.ours]


def build(
    path: str | Path,
    out: Path,
    *,
    modality: str | None = None,
    deep: bool = False,
    threads: int = 2,
    allow_roots: Sequence[str] = (),
) -> Built:
    """Scans files and writes a manifest, and beside it MANIFEST.broken.jsonl if there is anything broken.

    Args:
        path: What `open_source` takes: a folder, tar shards, another manifest.
        out: The manifest: .jsonl, .tsv, .csv or .parquet.
        modality: "speech", "vision" or "text"; by default what most of the files are.
        deep: Decode every sample, not only its header.
        threads: Threads that read.
        allow_roots: Folders outside of `path` that links may lead to.

    Raises:
        DataError: There is nothing to scan, nothing that can be read, or the manifest cannot be written.
    """
    kind = modality_of(modality or guess(path)).kind()
    found = find(path, kind, run=None, allow_roots=allow_roots)
    listing = found.listing()
    store = found.store(listing)
    if not isinstance(store, FileStore) or any("://" in name for name in listing.containers):
        raise DataError(f"{found.where} needs no manifest: pass it to pretrain as it is")
    check_target(out, store.root, listing)
    store = store.fenced(Fence(store.root, allow_roots))
    look = _deep(kind) if deep else kind.header
    task = {"path": os.path.abspath(path), "modality": kind.modality, "deep": deep}
    journal = _Journal(out.with_name(out.name + ".part"), task)
    sizes, problems, ours = _scan(store, listing, kind, look, journal, threads)
    built = Built(kind, store.root, listing, sizes, problems, len(journal.known), ours)
    if not built.good:
        if not problems:
            raise DataError(f"{found.where} has nothing but what this program wrote itself")
        first = min(problems)
        raise DataError(f"nothing in {found.where} can be read; {listing.names[first]}: {problems[first]}")
    write(out, store.root, listing, sizes, kind, built.good)
    _write_broken(out, listing, problems)
    journal.remove()
    if os.path.isabs(root := named_root(out, store.root)):
        tell(f"{out} names files outside of its own folder: pretrain takes it with --loader.allow-roots {root}")
    return built


def guess(path: str | Path) -> str:
    """The modality of most files at a path; of several shards, those of the first.

    Raises:
        DataError: There are pictures and sound, or neither these nor text.
    """
    place = expanded(path)
    if not place.exists() and "://" not in str(path):
        shards = expand(str(place))
        place = Path(shards[0]) if shards else place
    if not place.exists():
        raise DataError(f"data: cannot look at {path} to see what it holds: say --modality")
    found = _extensions(place)
    kinds = [kind for kind in _kinds() if kind.guessed]
    counts = {kind.modality: sum(found[e] for e in {*kind.extensions, *kind.remedies}) for kind in kinds}
    # a table or a list may lie beside pictures and clips: documents are what is there when nothing else is
    likely = [kind.modality for kind in kinds if counts[kind.modality] and not kind.documents]
    if len(likely) > 1:
        raise DataError(
            f"{path} has {' and '.join(f'{counts[name]} files of {name}' for name in likely)}: choose by --modality"
        )
    likely += [kind.modality for kind in kinds if counts[kind.modality] and kind.documents]
    if not likely:
        raise DataError(f"{path} has no files that are known by their names; say --modality")
    return likely[0]


def _kinds() -> list[Kind]:
    """Those of all modalities that read files."""
    kinds = []
    for name in registry.names():
        with contextlib.suppress(DataError):  # reads none
            kinds.append(modality_of(name).kind())
    return kinds


def _extensions(path: Path) -> Counter[str]:
    """How many files of each extension there are."""
    if path.is_dir():
        if tables.is_saved(path):
            raise DataError(f"{path} was saved by datasets and needs no manifest: pass it to pretrain as it is")
        found = list_files(path, (archives.EXTENSION,))
        shard = found.names[0] if found.names else None
        return found.ignored if shard is None else found.ignored + _members(path, shard)
    if path.suffix.lower() == archives.EXTENSION and path.is_file():
        return _members(path.parent, path.name)
    if path.suffix.lower() in manifest.EXTENSIONS and path.is_file():
        kinds = _kinds()
        check_encoding(path)
        if not all(manifest.is_manifest(path, kind) for kind in kinds):
            return Counter({path.suffix.lower(): 1})
        names = [entry.path for _, entry in entries(path, kinds[0]) if not isinstance(entry, str)]
        return Counter(os.path.splitext(name)[1].lower() for name in names)
    return Counter({path.suffix.lower(): 1})


def _members(root: Path, shard: str) -> Counter[str]:
    members, _ = archives.members(root, shard, (root / shard).stat().st_size)
    return Counter(os.path.splitext(name)[1].lower() for name, *_ in members)


Look = Callable[[Store, int], tuple[int, ...]]
"""(store, number) -> what the index says about a sample; raises SampleError for a broken one."""


def _deep(kind: Kind) -> Look:
    """Decodes the sample too."""
    decode = kind.decode
    if decode is None:
        return kind.header

    def look(store: Store, i: int) -> tuple[int, ...]:
        sizes = kind.header(store, i)
        decode(store, i, sizes)
        return sizes

    return look


def _scan(
    store: Store, listing: Listing, kind: Kind, look: Look, journal: _Journal, threads: int
) -> tuple[np.ndarray, dict[int, str], frozenset[int]]:
    """Sizes, what is wrong, and what are no samples; goes on where the journal ends."""

    def one(i: int) -> tuple[int, ...] | SampleError:
        try:
            return look(store, i)
        except Exception as error:
            return failed(store.label(i), error)

    problems = dict(listing.problems)
    ours: set[int] = set()
    sizes = np.zeros((len(listing.names), len(kind.fields)), dtype=np.int64)
    for i, reason in problems.items():
        report(store.label(i), reason)
    numbers = []
    for i, name in enumerate(listing.names):
        done = journal.known.get(name)
        if done is not None and done[0] == listing.file_bytes[i]:
            sizes[i] = done[1]
        elif i not in problems:
            numbers.append(i)
    if journal.known:
        tell(f"continued: {len(listing.names) - len(numbers) - len(problems):,} samples were looked at before")
    what = "decoding" if look.__name__ == "look" else "reading headers"
    with journal:
        for i, result in zip(numbers, scan(one, numbers, threads, what), strict=True):
            if isinstance(result, OwnFile):
                ours.add(i)
            elif isinstance(result, SampleError):
                problems[i] = result.reason
                report(store.label(i), result.reason)
            else:
                sizes[i] = result
                journal.note(listing.names[i], int(listing.file_bytes[i]), result)
    return sizes, dict(sorted(problems.items())), frozenset(ours)


class _Journal:
    """Samples that were found to be good, a line each, on the disk as soon as they are known.

    Args:
        path: Of the file.
        task: What is scanned and how; a file that says something else is begun anew.
    """

    def __init__(self, path: Path, task: dict[str, Any]) -> None:
        self._path, self._task = path, json.dumps(task)
        self.known: dict[str, tuple[int, tuple[int, ...]]] = {}
        """Name to bytes and sizes."""
        if path.exists():
            with path.open("rb") as file:
                if file.readline() == self._task.encode() + b"\n":
                    for line in file:
                        with contextlib.suppress(ValueError, TypeError):  # cut off or damaged: looked at again
                            name, count, *sizes = json.loads(line)
                            self.known[name] = (count, tuple(map(int, sizes)))

    def __enter__(self) -> None:
        # what is known is written again: behind a line that was cut off nothing could be added
        lines = [self._task, *(json.dumps([name, count, *sizes]) for name, (count, sizes) in self.known.items())]
        write_whole(self._path, "\n".join(lines) + "\n")
        self._file = self._path.open("a", buffering=1, encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def note(self, name: str, count: int, sizes: tuple[int, ...]) -> None:
        """Keeps a good sample; a broken one is looked at again, it may have been mended."""
        self._file.write(json.dumps([name, count, *sizes]) + "\n")

    def remove(self) -> None:
        """After the manifest is written."""
        self._path.unlink()


def broken_list(out: Path) -> Path:
    """The file beside a manifest that says what was left out."""
    return out.with_name(out.name + BROKEN)


def _write_broken(out: Path, listing: Listing, problems: dict[int, str]) -> None:
    path = broken_list(out)
    if problems:
        write_whole(
            path, "".join(json.dumps({"path": listing.names[i], "reason": r}) + "\n" for i, r in problems.items())
        )
    else:
        path.unlink(missing_ok=True)
