"""Looking at samples for `data build`: which there are, what their headers say, what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from d2v_fast.data.formats import Kind, find
from d2v_fast.data.formats.write import check_target
from d2v_fast.data.guess import guess
from d2v_fast.data.headers import Look, headers
from d2v_fast.data.journal import Journal
from d2v_fast.data.listing import Listing
from d2v_fast.data.parts import Row
from d2v_fast.data.paths import Fence
from d2v_fast.data.protocol import modality_of
from d2v_fast.data.store import FileStore, Store
from d2v_fast.errors import DataError, OwnFile, SampleError
from d2v_fast.log import report, tell


@dataclass(frozen=True)
class Job:
    """What is to be looked at, and how."""

    kind: Kind
    where: str
    """For messages."""

    listing: Listing
    store: FileStore
    look: Look

    doing: str
    """What the progress bar says."""


@dataclass(frozen=True)
class Found:
    """What is known of the samples."""

    sizes: np.ndarray
    """int64 [N, k], what the headers say; zeros for samples that were not looked at, or cannot be read."""

    problems: dict[int, str]
    """Why a sample cannot be read."""

    ours: frozenset[int]
    """Files that this program wrote itself."""

    def row(self, i: int) -> Row:
        """Of one sample."""
        if i in self.ours:
            return None
        return self.problems[i] if i in self.problems else self.sizes[i].tolist()


def open_job(
    path: str | Path,
    out: Path,
    modality: str | None,
    deep: bool,
    allow_roots: Sequence[str],
    leave_out: Sequence[Path] = (),
) -> Job:
    """Lists the samples, and refuses what cannot be done before the work begins.

    Args:
        path: What `open_source` takes.
        out: The manifest that is to be written.
        modality: By default what most of the files are.
        deep: Decode every sample.
        allow_roots: Folders outside of `path` that links may lead to.
        leave_out: Files that are no samples, wherever they lie.

    Raises:
        DataError: There is nothing to scan, or the manifest cannot be written.
    """
    kind = modality_of(modality or guess(path)).kind()
    found = find(path, kind, run=None, allow_roots=allow_roots)
    listing = found.listing()
    store = found.store(listing)
    if not isinstance(store, FileStore) or any("://" in name for name in listing.containers):
        raise DataError(f"{found.where} needs no manifest: pass it to pretrain as it is")
    check_target(out, store.root, listing)
    if leave_out:
        listing = _without(listing, store.root, leave_out)
        store = found.store(listing)
        assert isinstance(store, FileStore)
    deep = deep and kind.decode is not None
    look, doing = (_decoding(kind), "decoding") if deep else (kind.header, "reading headers")
    return Job(kind, found.where, listing, store.fenced(Fence(store.root, allow_roots)), look, doing)


def _without(listing: Listing, root: Path, files: Sequence[Path]) -> Listing:
    """The listing without these files."""
    if listing.places is not None or listing.spans is not None:  # members of archives and parts of clips: never these
        return listing
    names = {os.path.relpath(os.path.abspath(file), os.path.abspath(root)) for file in files}
    keep = [i for i, name in enumerate(listing.names) if name not in names]
    problems = {new: listing.problems[old] for new, old in enumerate(keep) if old in listing.problems}
    return Listing([listing.names[i] for i in keep], listing.file_bytes[keep], problems=problems)


def _decoding(kind: Kind) -> Look:
    """Reads the header and decodes the sample too, where a kind decodes."""
    assert kind.decode is not None
    return partial(_decoded, kind.header, kind.decode)


def _decoded(
    header: Look, decode: Callable[[Store, int, tuple[int, ...]], None], store: Store, i: int
) -> tuple[int, ...]:
    sizes = header(store, i)
    decode(store, i, sizes)
    return sizes


def look_at(job: Job, journal: Journal, threads: int, part: range | None = None) -> Found:
    """Looks at samples, and goes on where the journal ends. What is broken is named on stderr.

    Args:
        job: What is looked at.
        journal: Keeps what is found.
        threads: Threads that read; processes, of very many samples.
        part: Numbers of the samples; None for all.
    """
    store, listing = job.store, job.listing
    samples = range(len(listing.names)) if part is None else part
    every = slice(samples.start, samples.stop)
    known, found = journal.find(listing.names[every], listing.file_bytes[every])
    problems = {i: reason for i, reason in listing.problems.items() if i in samples}
    ours: set[int] = set()
    sizes = np.zeros((len(listing.names), len(job.kind.fields)), dtype=np.int64)
    for i, reason in problems.items():
        report(store.label(i), reason)
    if journal.continued:
        sizes[samples.start + known] = found
        tell(f"continued: {journal.continued:,} samples were looked at before")
    done = problems.keys() | set((samples.start + known).tolist())
    numbers = [i for i in samples if i not in done]
    with journal:
        for i, result in headers(job.look, store, numbers, threads, job.doing):
            if isinstance(result, OwnFile):
                ours.add(i)
            elif isinstance(result, SampleError):
                problems[i] = result.reason
                report(store.label(i), result.reason)
            else:
                sizes[i] = result
                journal.note(listing.names[i], int(listing.file_bytes[i]), result)
    return Found(sizes, dict(sorted(problems.items())), frozenset(ours))
