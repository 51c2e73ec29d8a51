"""The names of many samples as one row of bytes: a name is made a string when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

_AT_ONCE = 1 << 16


class Names(Sequence[str]):
    """Names by number.

    Args:
        text: uint8, the names in UTF-8 (what is no UTF-8 in a file's name as it is on the disk), a NUL between two.
        ends: int64 [N], the byte behind each name.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @staticmethod
    def of(names: Sequence[str]) -> Names:
        """Packs names.

        Raises:
            ValueError: A name holds a NUL.
        """
        if isinstance(names, Names):
            return names
        text = np.frombuffer(encoded(names), np.uint8)
        if not names:
            return Names(text, np.empty(0, dtype=np.int64))
        ends = np.append(np.flatnonzero(text == 0), len(text)).astype(np.int64)
        if len(ends) != len(names):
            raise ValueError(f"a name holds a NUL: there are {len(names)} names and {len(ends) - 1} NULs")
        return Names(text, ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no name {index}, there are {len(self)}")
        index %= len(self)
        start = 0 if index == 0 else int(self.ends[index - 1]) + 1
        return self.text[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for low in range(0, len(self), _AT_ONCE):
            end = int(self.ends[min(low + _AT_ONCE, len(self)) - 1])
            for name in self.text[start:end].tobytes().split(b"\0"):
                yield name.decode("utf-8", "surrogateescape")
            start = end + 1


def encoded(names: Sequence[str]) -> bytes:
    """The names with a NUL between two, as bytes."""
    return "\0".join(names).encode("utf-8", "surrogateescape")
