"""A part of a file, as a file."""

from __future__ import annotations

import io
import os
from typing import Any


class FilePart(io.RawIOBase):
    """Bytes [start, start + size) of something that `between` reads.

    Args:
        start: The first byte of the part.
        size: Its bytes.
    """

    def __init__(self, start: int, size: int) -> None:
        self._start, self._size, self._at = start, size, 0

    def between(self, start: int, end: int) -> bytes:
        """Bytes [start, end) of the whole, fewer if it ends before."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`; raises what `between` does."""
        count = max(0, min(len(buffer), self._size - self._at))
        if count == 0:
            return 0
        first = self._start + self._at
        data = self.between(first, first + count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
