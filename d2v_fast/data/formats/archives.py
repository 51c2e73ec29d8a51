"""Tar shards in the layout of WebDataset, read at random through the offsets of their members.

Nothing is ever unpacked: a member is a slice of its archive, so every epoch has an order of its own over all shards,
and a run resumes at its step as it does with files.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from d2v_fast.data.collection import GONE, Collection
from d2v_fast.data.formats import beside
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Index
from d2v_fast.data.listing import Listing, check_formats
from d2v_fast.data.remote import RemoteFile, remote, tried
from d2v_fast.data.scan import scan
from d2v_fast.data.store import FileStore
from d2v_fast.errors import DataError, Unreachable

EXTENSION = ".tar"
_BLOCK = 512
_CUT = "is cut off"
_PIECE = 1 << 20
"""Bytes that are read at once: more than any header has."""


def shards(root: Path, names: Sequence[str], kind: Kind) -> Collection:
    """The members of archives that are samples.

    Args:
        root: Folder that the names are relative to.
        names: Of the archives; or addresses that fsspec knows.
        kind: Which members are samples; the others (labels, captions) are left out.

    Raises:
        DataError: An archive is gone or compressed.
    """
    packed = [name for name in names if not is_archive(name)]
    if packed:
        compressed = (
            ": members of a compressed archive cannot be read one by one. Unpack the compression first (gunzip, unxz, "
            "zstd -d); pictures and FLAC gain nothing from it"
        )
        raise DataError(f"data: {packed[0]} is no .tar file{compressed if '.t' in packed[0].lower() else ''}")
    names = sorted(names)

    @cache
    def files() -> Mapping[str, int]:
        return {name: _size(root, name) for name in names}

    where = str(root / names[0]) if len(names) == 1 else f"{len(names)} tar shards ({names[0]} to {names[-1]})"

    def store(known: Listing | Index) -> FileStore:
        return FileStore(
            root, known.names, places=known.places, file_bytes=known.file_bytes, containers=known.containers
        )

    return Collection(
        where,
        files,
        lambda: _list(root, names, files(), kind),
        store,
        file_bytes=partial(_size, root),
        fields=lambda: _fields(root, names, files(), kind),
    )


def remote_names(pattern: str) -> list[str]:
    """The addresses that a pattern with * or ? stands for, or those of the archives in a folder.

    Raises:
        DataError: There are none, or the place cannot be read.
    """
    wild = any(c in pattern for c in "*?[")
    if is_archive(pattern) and not wild:
        return [pattern]
    system, path = remote(pattern)
    try:
        found = tried(pattern, lambda: system.glob(path if wild else f"{path.rstrip('/')}/**/*"))
    except Exception as error:  # every file system has errors of its own
        raise DataError(f"data: {pattern} cannot be read: {type(error).__name__}: {error}") from error
    names = sorted(name for name in found if is_archive(name))
    if not names:
        raise DataError(f"data: there are no {EXTENSION} files at {pattern}; only tar shards are read from there")
    return [system.unstrip_protocol(name) for name in names]


def is_archive(name: str) -> bool:
    """Whether a name ends as that of a tar archive does, whatever its case."""
    return name.lower().endswith(EXTENSION)


def _size(root: Path, name: str) -> int:
    """Bytes of an archive; `GONE` if there is none, which only matters where nothing is known of it."""
    try:
        if "://" in name:
            system, path = remote(name)
            return int(tried(name, lambda: system.size(path)))
        return (root / name).stat().st_size
    except FileNotFoundError:
        return GONE
    except DataError:
        raise
    except Exception as error:  # a file system of fsspec raises what it likes
        raise DataError(f"data: {name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _list(root: Path, names: Sequence[str], files: Mapping[str, int], kind: Kind) -> Listing:
    """The samples of all archives, in order.

    Raises:
        DataError: An archive is gone.
    """
    for name, size in files.items():
        if size == GONE:
            raise DataError(f"data: {name if '://' in name else root / name} cannot be read: No such file or directory")
    ignored: Counter[str] = Counter()
    samples: list[str] = []
    places: list[tuple[int, int, int]] = []
    problems: dict[int, str] = {}
    results = scan(lambda i: members(root, names[i], files[names[i]]), range(len(names)), 4, "reading tar shards")
    for shard, (found, fault) in enumerate(results):
        for name, start, size, problem in found:
            extension = os.path.splitext(name)[1].lower()
            if extension not in kind.extensions:
                ignored[extension] += 1
                continue
            if problem is not None:
                problems[len(samples)] = problem
            samples.append(f"{names[shard]}/{name}")
            places.append((shard, start, size))
        if fault is not None and not (found and (found[-1][3] or "").startswith(_CUT)):
            problems[len(samples)] = fault  # nobody knows how many samples: one stands for them
            samples.append(names[shard])
            places.append((shard, 0, 0))
    table = np.array(places, dtype=np.int64).reshape(-1, 3)
    listing = Listing(
        samples, table[:, 2], ignored, places=table[:, :2].copy(), containers=tuple(names), problems=problems
    )
    if not samples:
        check_formats(root if len(names) > 1 else root / names[0], listing, kind.remedies, kind.wanted)
    return listing


def _fields(root: Path, names: Sequence[str], files: Mapping[str, int], kind: Kind) -> dict[str, beside.Fields]:
    """What the members beside the samples say, by the names that `_list` gives these."""
    found: dict[str, beside.Fields] = {}
    for shard in names:
        listed, _ = members(root, shard, files[shard])
        about: dict[str, dict[str, tuple[int, int]]] = {}
        samples = []
        for name, start, size, problem in listed:
            ending = os.path.splitext(name)[1].lower()
            if ending in kind.extensions:
                samples.append(name)
            elif ending in beside.ENDINGS and problem is None and size <= beside.MOST_BYTES:
                about.setdefault(beside.stem(name), {})[ending] = (start, size)
        with closing(_open(root, shard, files[shard])) as file:
            for name in samples:
                there = about.get(beside.stem(name), {})
                found[f"{shard}/{name}"] = beside.fields_of(name, there, partial(_content, file, there))
    return found


def _content(file: IO[bytes], there: Mapping[str, tuple[int, int]], ending: str) -> bytes:
    start, size = there[ending]
    file.seek(start)
    return file.read(size)


_COMPRESSED = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|PK\x03\x04")
"""How files of gzip, bzip2, xz, zstd and zip begin. (An archive begins with a name, which could be BZh.wav.)"""

Member = tuple[str, int, int, str | None]
"""Name, first byte, size, and what is wrong with it."""


def members(root: Path, name: str, size: int) -> tuple[list[Member], str | None]:
    """The members of an archive, and what is wrong with it as a whole.

    Hidden members are left out, as hidden files of a folder are: those whose name, or that of a folder they are in,
    begins with a dot, among them what tar on macOS puts beside each file; and the folder __MACOSX. Archives that were
    joined end to end are read one after the other.
    """
    if size == 0:
        return [], "is empty"
    found: list[Member] = []
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(closing(_open(root, name, size)))
            if _COMPRESSED.match(file.read(_BLOCK)):
                return [], "is compressed, whatever its name says: unpack it first"
            start: int | None = 0
            while start is not None:
                end = _members_from(_Headers(file), start, size, found)
                file.seek(end)
                if end >= size or any(file.read(_BLOCK)):
                    return found, f"is cut off or damaged behind member {len(found)}: it has no end mark"
                start = _next_archive(file, end, size)
        except Unreachable as error:
            raise DataError(f"data: {error}. Start again when it can") from error
        except Exception as error:  # whatever is in its headers: numbers, encodings, nested without end
            return found, f"is damaged behind member {len(found)}: {type(error).__name__}: {error}"
    return found, None


def _members_from(file: _Headers, start: int, size: int, found: list[Member]) -> int:
    """Adds the members of the archive that begins at `start`; returns where the next header would be."""
    file.seek(start)
    with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
        for member in tar:
            if not member.isdir() and not _is_hidden(member.name):
                problem = _problem(member, size)
                found.append((member.name.removeprefix("./"), member.offset_data, member.size, problem))
            if member.size < 0 or tar.offset <= member.offset:
                raise tarfile.ReadError(f"{member.name} claims to have {member.size} bytes")
        return tar.offset


def _next_archive(file: IO[bytes], end: int, size: int) -> int | None:
    """The first byte that is not zero behind an end mark, on a block's border; None if there is only filling."""
    at = end
    while at < size:
        file.seek(at)
        piece = file.read(_PIECE)
        filled = np.flatnonzero(np.frombuffer(piece, np.uint8))
        if len(filled):
            return at + int(filled[0]) // _BLOCK * _BLOCK
        if not piece:
            return None
        at += len(piece)
    return None


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


class _Headers:
    """An archive as `tarfile` may read it: header by header, forward, and never much at once.

    Members are not read through it, so a long read is a header that lies about its size.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _PIECE:
            raise tarfile.ReadError(f"a header claims to have {count} bytes")
        return self._file.read(count)


def _open(root: Path, name: str, size: int) -> IO[bytes]:
    if "://" in name:
        return io.BufferedReader(RemoteFile(name, 0, size))
    return (root / name).open("rb")


def _problem(member: tarfile.TarInfo, size: int) -> str | None:
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname}: only files are read"
    if not member.isreg() or member.issparse():
        return "is not a plain file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "leads out of its archive: its name is not trusted"
    if member.size < 0:
        return f"claims to have {member.size} bytes"
    if member.size == 0:
        return "is empty"
    if member.offset_data + member.size > size:
        return f"{_CUT}: {max(0, size - member.offset_data)} of {member.size} bytes are there"
    return None
