"""What an interrupted scan has found out already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d2v_fast.files import naming

_KEY = 16
"""Bytes of a hash."""

_LONGEST = 1 << 20
"""Bytes of the first line at most."""


class Journal:
    """Samples that were found to be good, a record each, on the disk as soon as they are known.

    The first line says what was scanned. A record is a hash of the sample's name and bytes, and its sizes as int64. One
    that a power cut has spoiled belongs to no sample, which is then looked at again.

    Args:
        path: Of the file; it is there when the first good sample is.
        task: What is scanned and how; a file that says something else is begun anew.
    """

    def __init__(self, path: Path, task: dict[str, Any]) -> None:
        self._path, self._task = path, task
        self._file: BinaryIO | None = None
        self.continued = 0
        """Samples that are known from before, as `find` found them."""

    def find(self, names: Sequence[str], file_bytes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is known of samples.

        Args:
            names: [N], of the samples.
            file_bytes: int64 [N], their bytes now; of another size, a sample is another one.

        Returns:
            int64 [n], the numbers of those that are known, ascending, and int64 [n, k], their sizes.
        """
        records = self._records()
        if len(records) == 0 or not names:
            return np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.int64)
        keys = np.frombuffer(b"".join(map(_key, names, file_bytes.tolist())), "<u8").reshape(-1, 2)
        order = np.argsort(records["key"][:, 0], kind="stable")
        place = np.searchsorted(records["key"][order, 0], keys[:, 0]).clip(max=len(order) - 1)
        records = records[order[place]]
        known = np.flatnonzero((records["key"] == keys).all(axis=1))
        self.continued = len(known)
        return known, records["sizes"][known].astype(np.int64)

    def note(self, name: str, file_bytes: int, sizes: tuple[int, ...]) -> None:
        """Keeps a good sample; a broken one is looked at again, it may have been mended.

        Raises:
            OSError: It cannot be written.
        """
        with naming(self._path):
            if self._file is None:
                self._file = self._open(len(sizes))
            self._file.write(struct.pack(f"<{_KEY}s{len(sizes)}q", _key(name, file_bytes), *sizes))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """After what was found out is written elsewhere."""
        self._path.unlink(missing_ok=True)

    def _records(self) -> np.ndarray:
        """Those of an interrupted scan for the same task."""
        # No file, or one whose first line is damaged: everything is looked at again.
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError), self._path.open("rb") as file:
            head = json.loads(file.readline(_LONGEST))
            if head == self._task | {"width": head["width"]}:
                kind = _record(head["width"])
                return np.fromfile(file, kind, (self._path.stat().st_size - file.tell()) // kind.itemsize)
        return np.zeros(0, _record(1))

    def _open(self, width: int) -> BinaryIO:
        """The file, to add to: behind the last whole record, or begun anew."""
        records = self._records()
        if len(records) == 0 or records.dtype != _record(width):
            records = records[:0]
            self._path.write_bytes(json.dumps(self._task | {"width": width}).encode() + b"\n")
        file = self._path.open("r+b", buffering=0)
        file.seek(len(file.readline(_LONGEST)) + records.nbytes)
        file.truncate()
        return file


def _record(width: int) -> np.dtype:
    return np.dtype([("key", "<u8", 2), ("sizes", "<i8", width)])


def _key(name: str, file_bytes: int) -> bytes:
    """A hash of a name (as it is on the disk) and its bytes."""
    return hashlib.blake2b(f"{file_bytes} {name}".encode("utf-8", "surrogatepass"), digest_size=_KEY).digest()
