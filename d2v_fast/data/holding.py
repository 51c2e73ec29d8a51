"""Holding samples out by a hash of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from d2v_fast.data.source import DataSource
from d2v_fast.errors import DataError

_AT_ONCE = 1 << 16


def split(source: DataSource, usable: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a share of the samples, by a hash of their names: neither order nor seed matters.

    Args:
        source: For the names.
        usable: int64 [n], the samples to choose from.
        share: In [0, 1); at least one sample is held out, and one kept, unless it is 0.

    Returns:
        Samples to train on and samples held out, ascending.
    """
    if not 0 <= share < 1:
        raise DataError(f"loader.holdout is {share}; it is a share of the samples, at least 0 and less than 1")
    if share == 0:
        return usable, usable[:0]
    if len(usable) < 2:
        raise DataError(f"loader.holdout is {share}, but there is only {len(usable)} sample")
    count = min(max(1, round(share * len(usable))), len(usable) - 1)
    parts = [usable[low : low + _AT_ONCE].tolist() for low in range(0, len(usable), _AT_ONCE)]
    numbers = np.concatenate([hashes([source.name(i) for i in part]) for part in parts])
    order = np.argsort(numbers, kind="stable")
    return np.sort(usable[order[count:]]), np.sort(usable[order[:count]])


def hashes(names: Sequence[str]) -> np.ndarray:
    """uint64 [N], numbers that stay with names and have no order of their own."""
    encoded = [_bytes(name) for name in names]
    return np.frombuffer(b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in encoded), dtype="<u8")


def _bytes(name: str) -> bytes:
    """Those of a file's name as it is on disk; half of a surrogate pair, which no file has, gets bytes of its own."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")
