"""Tar shards in the layout of WebDataset, read at random through the offsets of their members.

Nothing is ever unpacked: a member is a slice of its archive, so every epoch has an order of its own over all shards,
and a run resumes at its step as it does with files.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

import numpy as np

from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Collection, Index
from d2v_fast.data.listing import Listing, check_formats
from d2v_fast.data.scan import scan
from d2v_fast.data.store import FileStore, remote
from d2v_fast.errors import DataError
from d2v_fast.log import report

EXTENSION = ".tar"
_BLOCK = 512


def shards(root: Path, names: Sequence[str], kind: Kind) -> Collection:
    """The members of archives that are samples.

    Args:
        root: Folder that the names are relative to.
        names: Of the archives; or addresses that fsspec knows.
        kind: Which members are samples; the others (labels, captions) are left out.

    Raises:
        DataError: An archive is gone or compressed.
    """
    packed = [name for name in names if not name.lower().endswith(EXTENSION)]
    if packed:
        compressed = (
            ": members of a compressed archive cannot be read one by one. Unpack the compression first (gunzip, unxz, "
            "zstd -d); pictures and FLAC gain nothing from it"
        )
        raise DataError(f"data: {packed[0]} is no .tar file{compressed if '.t' in packed[0].lower() else ''}")
    names = sorted(names)
    files = {name: _size(root, name) for name in names}
    where = str(root / names[0]) if len(names) == 1 else f"{len(names)} tar shards ({names[0]} to {names[-1]})"

    def store(known: Listing | Index) -> FileStore:
        return FileStore(
            root, known.names, places=known.places, file_bytes=known.file_bytes, containers=known.containers
        )

    return Collection(where, files, lambda: _list(root, names, files, kind), store)


def remote_names(pattern: str) -> list[str]:
    """The addresses that a pattern with * or ? stands for, or those of the archives in a folder.

    Raises:
        DataError: There are none.
    """
    if pattern.endswith(EXTENSION) and not any(c in pattern for c in "*?["):
        return [pattern]
    system, path = remote(pattern)
    found = sorted(system.glob(path if pattern.endswith(EXTENSION) else f"{path.rstrip('/')}/**/*{EXTENSION}"))
    if not found:
        raise DataError(f"data: there are no {EXTENSION} files at {pattern}; only tar shards are read from there")
    return [system.unstrip_protocol(name) for name in found]


def _size(root: Path, name: str) -> int:
    try:
        if "://" in name:
            system, path = remote(name)
            return int(system.size(path))
        return (root / name).stat().st_size
    except OSError as error:
        raise DataError(f"data: {name} cannot be read: {error.strerror or error}") from error


def _list(root: Path, names: Sequence[str], files: dict[str, int], kind: Kind) -> Listing:
    """The samples of all archives, in order."""
    ignored: Counter[str] = Counter()
    samples: list[str] = []
    places: list[tuple[int, int, int]] = []
    problems: dict[int, str] = {}
    results = scan(lambda i: members(root, names[i], files[names[i]]), range(len(names)), 4, "reading tar shards")
    for shard, (found, fault) in enumerate(results):
        if fault is not None:
            report(names[shard] if "://" in names[shard] else str(root / names[shard]), fault)
        for name, start, size, problem in found:
            extension = os.path.splitext(name)[1].lower()
            if extension not in kind.extensions:
                ignored[extension] += 1
                continue
            if problem is not None:
                problems[len(samples)] = problem
            samples.append(f"{names[shard]}/{name}")
            places.append((shard, start, size))
    table = np.array(places, dtype=np.int64).reshape(-1, 3)
    listing = Listing(
        samples, table[:, 2], ignored, places=table[:, :2].copy(), containers=tuple(names), problems=problems
    )
    if not samples:
        check_formats(root if len(names) > 1 else root / names[0], listing, kind.remedies, kind.wanted)
    return listing


Member = tuple[str, int, int, str | None]
"""Name, first byte, size, and what is wrong with it."""


def members(root: Path, name: str, size: int) -> tuple[list[Member], str | None]:
    """The members of an archive, and what is wrong with it as a whole."""
    if size == 0:
        return [], "is empty"
    found: list[Member] = []
    try:
        with closing(_open(root, name)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isdir():
                    problem = _problem(member, size)
                    found.append((member.name.removeprefix("./"), member.offset_data, member.size, problem))
            file.seek(tar.offset)
            whole = not any(file.read(_BLOCK)) and tar.offset < size
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        return found, f"is damaged behind member {len(found)}: {error}"
    return found, None if whole else f"is cut off or damaged behind member {len(found)}: it has no end mark"


def _open(root: Path, name: str) -> IO[bytes]:
    if "://" in name:
        system, path = remote(name)
        file: IO[bytes] = system.open(path, "rb")
        return file
    return (root / name).open("rb")


def _problem(member: tarfile.TarInfo, size: int) -> str | None:
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname}: only files are read"
    if not member.isreg() or member.issparse():
        return "is not a plain file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "leads out of its archive: its name is not trusted"
    if member.size == 0:
        return "is empty"
    if member.offset_data + member.size > size:
        return f"is cut off: {max(0, size - member.offset_data)} of {member.size} bytes are there"
    return None
