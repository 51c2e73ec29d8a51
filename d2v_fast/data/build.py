"""`d2v-fast data build`: looks at every sample once, and writes a manifest of those that can be read.

What was found out is kept beside the manifest in MANIFEST.part, a record for each sample, until the manifest is
written: a scan that is interrupted, by whatever, continues where it was. Many machines share a scan by parts; see
`parts`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2v_fast.data.formats import Kind
from d2v_fast.data.formats.write import named_root, write
from d2v_fast.data.journal import Journal
from d2v_fast.data.listing import Listing
from d2v_fast.data.looking import Found, Job, look_at, open_job
from d2v_fast.data.own import BROKEN
from d2v_fast.data.parts import Part, Parts, fingerprint
from d2v_fast.data.paths import expanded
from d2v_fast.errors import DataError
from d2v_fast.files import write_whole
from d2v_fast.log import tell


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
        threads: Threads that read; processes, of very many files.
        allow_roots: Folders outside of `path` that links may lead to.

    Raises:
        DataError: There is nothing to scan, nothing that can be read, or the manifest cannot be written.
    """
    job = open_job(path, out, modality, deep, allow_roots)
    task = {"path": os.path.abspath(path), "modality": job.kind.modality, "deep": deep}
    journal = Journal(out.with_name(out.name + ".part"), task)
    found = look_at(job, journal, threads)
    built = _finish(job, out, found, journal.continued)
    journal.remove()
    return built


def build_part(
    path: str | Path,
    out: Path,
    part: Part,
    *,
    modality: str | None = None,
    deep: bool = False,
    threads: int = 2,
    allow_roots: Sequence[str] = (),
) -> Built | list[Part]:
    """Scans one part of the files, and writes the manifest once all parts are there.

    The manifest has the same bytes as that of `build`. A part that is complete is not scanned again.

    Args:
        path: See `build`, as for the other arguments.
        out: The manifest; the parts lie beside it in MANIFEST.parts.
        part: Which of how many.
        modality: See `build`.
        deep: See `build`.
        threads: See `build`.
        allow_roots: See `build`.

    Returns:
        All that was found, or the parts that are still missing.

    Raises:
        DataError: As `build`, or the parts that are there do not belong to this command.
    """
    if os.path.realpath(expanded(path)) == os.path.realpath(out):
        raise DataError(f"--part: {out} cannot be read and written by many processes: choose another --out")
    job = open_job(path, out, modality, deep, allow_roots, (out, broken_list(out)))
    task = {
        "root": named_root(out, job.store.root),
        "modality": job.kind.modality,
        "deep": deep,
        "allow_roots": sorted(map(os.path.abspath, allow_roots)),
        "samples": len(job.listing.names),
        "files": fingerprint(job.listing),
    }
    parts = Parts(out.with_name(out.name + ".parts"), part.count, task)
    continued = 0
    with parts.locked(f"{part.number}-of-{part.count}"):
        parts.check()
        if part in parts.missing():
            journal = Journal(parts.file(part, "journal"), task)
            mine = part.of(len(job.listing.names))
            found = look_at(job, journal, threads, mine)
            parts.save(part, [found.row(i) for i in mine])
            journal.remove()
            continued = journal.continued
        else:
            tell(f"part {part} is complete: it was built before")
    if missing := parts.missing():
        return missing
    with parts.locked("merge"):
        parts.check()
        return _finish(job, out, _together(job, parts), continued)


def _together(job: Job, parts: Parts) -> Found:
    """What all parts found, as one scan would have found it."""
    sizes = np.zeros((len(job.listing.names), len(job.kind.fields)), dtype=np.int64)
    problems: dict[int, str] = {}
    ours: set[int] = set()
    for i, row in enumerate(parts.rows(len(job.kind.fields))):
        if row is None:
            ours.add(i)
        elif isinstance(row, str):
            problems[i] = row
        else:
            sizes[i] = row
    return Found(sizes, problems, frozenset(ours))


def _finish(job: Job, out: Path, found: Found, continued: int) -> Built:
    """Writes the manifest and the list of what is broken."""
    listing, root, problems = job.listing, job.store.root, found.problems
    built = Built(job.kind, root, listing, found.sizes, problems, continued, found.ours)
    if not built.good:
        if not problems:
            raise DataError(f"{job.where} has nothing but what this program wrote itself")
        first = min(problems)
        raise DataError(f"nothing in {job.where} can be read; {listing.names[first]}: {problems[first]}")
    write(out, root, listing, found.sizes, job.kind, built.good)
    _write_broken(out, listing, problems)
    if os.path.isabs(named := named_root(out, root)):
        tell(f"{out} names files outside of its own folder: pretrain takes it with --loader.allow-roots {named}")
    return built


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
