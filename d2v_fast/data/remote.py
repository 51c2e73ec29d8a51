"""Files at addresses that fsspec knows ("s3://...").

They are read in blocks, ahead where they are read in order, and again where that fails. Blocks that were read lie in
memory for a while, and on a local disk if the environment names a folder there: D2V_FAST_CACHE, with D2V_FAST_CACHE_GB
for what it may hold.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from d2v_fast.data.file_part import FilePart
from d2v_fast.data.kept_blocks import KeptBlocks
from d2v_fast.errors import ConfigError, DataError, Unreachable

BLOCK = 1 << 18
"""Bytes of a block: a few samples, or the headers of many."""

FOLDER, GIGABYTES = "D2V_FAST_CACHE", "D2V_FAST_CACHE_GB"
"""Variables of the environment: a folder for blocks, and how many GB of them it may hold."""

_DEFAULT_GB = 10.0
_AHEAD = 16
"""Blocks that are fetched at once where a file is read in order."""

_IN_MEMORY = 64 << 20
"""Bytes of blocks that are held in memory."""

_WAITS = (0.5, 2.0, 8.0)
"""Seconds before another try."""


def remote_bytes(address: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file that fsspec knows, fewer if it ends before.

    Raises:
        Unreachable: It cannot be read, for all tries; the error names the file.
        DataError: fsspec, or what it needs for this kind of address, is not installed.
        ConfigError: The environment names a cache that cannot be one.
    """
    return blocks().read(address, start, end)


def tried(address: str, call: Callable[[], Any]) -> Any:
    """What a call gives that may fail for a moment: it is made again some seconds later, a few times.

    Raises:
        FileNotFoundError: There is no such file; that is not tried again.
        Unreachable: It failed each time.
    """
    waits = iter(_WAITS)
    while True:
        try:
            return call()
        except (FileNotFoundError, DataError):
            raise
        except Exception as error:  # every file system has errors of its own
            wait = next(waits, None)
            if wait is None:
                what = f"{type(error).__name__}: {error}"
                raise Unreachable(f"{address} cannot be read (tried {len(_WAITS) + 1} times): {what}") from error
        time.sleep(wait)


class RemoteFile(FilePart):
    """A part of a remote file, as a file.

    Args:
        address: Of the file.
        start: The first byte of the part.
        size: Its bytes.
    """

    def __init__(self, address: str, start: int, size: int) -> None:
        super().__init__(start, size)
        self._address = address

    def between(self, start: int, end: int) -> bytes:
        """See `remote_bytes`."""
        return remote_bytes(self._address, start, end)


@cache
def blocks() -> Blocks:
    """Those of this process."""
    folder, most = os.environ.get(FOLDER), os.environ.get(GIGABYTES)
    try:
        size = int(float(most or _DEFAULT_GB) * 1e9)
        if size <= 0:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{GIGABYTES} is {most!r}: it is a number of GB above 0, such as {_DEFAULT_GB:g}") from error
    return Blocks(KeptBlocks(Path(folder).expanduser(), size) if folder else None)


class Blocks:
    """Blocks of remote files that were read, the latest of them in memory.

    Args:
        kept: Those on a disk; None keeps none there.
        most: Bytes in memory.
    """

    def __init__(self, kept: KeptBlocks | None = None, most: int = _IN_MEMORY) -> None:
        self._kept, self._most = kept, most
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._behind: dict[str, int] = {}  # where the last read of each file ended
        self._versions: dict[str, str] = {}

    def read(self, address: str, start: int, end: int) -> bytes:
        """See `remote_bytes`."""
        first, last = start // BLOCK, -(-end // BLOCK)
        with self._lock:
            behind = self._behind.get(address)
            self._behind[address] = end
        in_order = behind is not None and behind <= start <= behind + BLOCK
        parts: list[bytes] = []
        while len(parts) < last - first:
            number = first + len(parts)
            found = self._find(address, number)
            if found is None:
                upto = max(last, number + _AHEAD) if in_order else last
                fetched = self._fetch(address, number, self._missing(address, number, upto))
                parts += fetched[: last - number]
                if len(fetched) < last - number and (not fetched or len(fetched[-1]) < BLOCK):
                    break  # the file ends there
                continue
            parts.append(found)
            if len(found) < BLOCK:
                break
        data = b"".join(parts)
        return data[start - first * BLOCK : end - first * BLOCK]

    def _find(self, address: str, number: int) -> bytes | None:
        with self._lock:
            found = self._blocks.get((address, number))
            if found is not None:
                self._blocks.move_to_end((address, number))
                return found
        if self._kept is None:
            return None
        found = self._kept.get(self._name(address, number))
        if found is not None:
            self._hold(address, number, found)
        return found

    def _missing(self, address: str, number: int, upto: int) -> int:
        """The block behind those that have to be fetched, from `number` on: up to one that is in memory."""
        with self._lock:
            there = (other for other in range(number + 1, upto) if (address, other) in self._blocks)
            return next(there, upto)

    def _fetch(self, address: str, first: int, behind: int) -> list[bytes]:
        """Reads the blocks first ... behind - 1 at once; fewer where the file ends."""
        system, path = remote(address)
        data = tried(address, lambda: system.cat_file(path, start=first * BLOCK, end=behind * BLOCK))
        fetched = [data[low : low + BLOCK] for low in range(0, len(data), BLOCK)]
        for number, block in enumerate(fetched, first):
            self._hold(address, number, block)
            if self._kept is not None:
                self._kept.put(self._name(address, number), block)
        return fetched

    def _hold(self, address: str, number: int, block: bytes) -> None:
        with self._lock:
            if (address, number) not in self._blocks:
                self._blocks[address, number] = block
                self._bytes += len(block)
            while self._bytes > self._most and len(self._blocks) > 1:
                self._bytes -= len(self._blocks.popitem(last=False)[1])

    def _name(self, address: str, number: int) -> str:
        """Of a block on the disk: another one when the file is another one."""
        if address not in self._versions:
            system, path = remote(address)
            self._versions[address] = str(tried(address, lambda: system.ukey(path)))
        return f"{address} {self._versions[address]} {number}"


def remote(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises:
        DataError: fsspec, or what it needs for this kind of address, is not installed.
    """
    try:
        import fsspec
    except Exception as error:  # not there, or there and broken
        raise DataError(
            f"data: {address} is read through fsspec, which is not installed: pip install fsspec"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(address)
        return system, path
    except Exception as error:  # every file system has errors of its own
        raise DataError(f"data: fsspec cannot open {address}: {type(error).__name__}: {error}") from error
