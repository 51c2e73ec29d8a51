"""Blocks of remote files on a local disk, no more of them than fit: those that were not used for longest go first."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

from d2v_fast.files import tell_once

_HASH = 16
"""Bytes of the hash before each block: a block that a power cut has spoiled is fetched again."""

_LEFT = 0.9
"""Share of what fits that is left when there are too many."""

_LOOKED_AFTER = 0.05
"""Share of what fits that a process adds before it counts again what all processes have added."""


class KeptBlocks:
    """A file for each block. Several processes may share the folder.

    Args:
        folder: It is made.
        most: Bytes that it may hold; of several processes each may add 5 % before it sees what the others have added.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._lock = threading.Lock()
        self._counted: int | None = None  # bytes when they were counted, None before
        self._added = 0

    def get(self, name: str) -> bytes | None:
        """A block, if it is there."""
        path = self._path(name)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:  # not there, or just deleted
            return None
        block = content[_HASH:]
        return block if content[:_HASH] == _digest(block) else None

    def put(self, name: str, block: bytes) -> None:
        """Keeps a block. Where that fails it is told once, and the block fetched again the next time."""
        path = self._path(name)
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_digest(block) + block)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            tell_once("blocks", self._folder, f"{self._folder} keeps no blocks of remote files: {error.strerror}")
            return
        with self._lock:
            self._added += _HASH + len(block)
            most_added = self._most * _LOOKED_AFTER
            if self._counted is None or self._counted + self._added > self._most or self._added > most_added:
                self._counted, self._added = self._trim(), 0

    def _trim(self) -> int:
        """Counts what is there, deletes what is too much, and returns what is left, in bytes."""
        there = []
        for folder, _, files in os.walk(self._folder):
            for file in files:
                with contextlib.suppress(OSError):  # another process has deleted it
                    status = os.stat(os.path.join(folder, file))
                    there.append((status.st_mtime_ns, status.st_size, os.path.join(folder, file)))
        total = sum(size for _, size, _ in there)
        if total <= self._most:
            return total
        for _, size, path in sorted(there):
            if total <= self._most * _LEFT:
                break
            with contextlib.suppress(OSError):  # another process has deleted it
                os.unlink(path)
            total -= size
        return total

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return self._folder / digest[:2] / digest


def _digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=_HASH).digest()
