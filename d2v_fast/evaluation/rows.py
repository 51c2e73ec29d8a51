"""Features of many samples, standardised a block at a time: the whole is never copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 22
"""Numbers that are held at a time as float64, 32 MB of them."""


class Rows:
    """Features [N, C] that stay as they are, read in blocks as float64.

    Args:
        features: [N, C], of any number format; an array on the disk may be mapped.
        name: For messages.

    Raises:
        ValueError: They have another shape, there are none, or some are not finite.
    """

    def __init__(self, features: Any, name: str = "features") -> None:
        self._features = np.asarray(features)
        if self._features.ndim != 2 or self._features.size == 0:
            raise ValueError(f"{name}: features [N, C] are needed, got {list(self._features.shape)}")
        self.shape = self._features.shape
        self._mean: np.ndarray | float = 0.0
        self._scale: np.ndarray | float = 1.0
        if not all(np.isfinite(block).all() for _, block in self._blocks()):
            raise ValueError(f"{name}: some features are not finite")

    def __len__(self) -> int:
        return len(self._features)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        step = max(1, PIECE // self.shape[1])
        for start in range(0, len(self), step):
            yield start, np.asarray(self._features[start : start + step], dtype=np.float64)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of each channel, float64 [C]; 1 for the deviation of one that never changes."""
        total, squares = np.zeros(self.shape[1]), np.zeros(self.shape[1])
        for _, block in self._blocks():
            total += block.sum(0)
        mean = total / len(self)
        for _, block in self._blocks():
            squares += np.square(block - mean).sum(0)
        std = np.sqrt(squares / len(self))
        return mean, np.where(std > 0, std, 1)

    def standardise(self, mean: np.ndarray, scale: np.ndarray) -> Rows:
        """Blocks have this mean taken off and are divided by this scale from now on."""
        self._mean, self._scale = mean, scale
        return self

    def block(self, start: int, count: int, *, unit: bool = False) -> Tensor:
        """The rows [start, start + count), float64 [count, C]; `unit`: of length one, but for rows of zeros."""
        rows = (np.asarray(self._features[start : start + count], dtype=np.float64) - self._mean) / self._scale
        if unit:
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            rows /= np.where(length > 0, length, 1)
        return torch.from_numpy(rows)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(which rows, the rows) one block after the other."""
        step = max(1, PIECE // self.shape[1])
        for start in range(0, len(self), step):
            block = self.block(start, step)
            yield slice(start, start + len(block)), block


def pair(train: Any, test: Any, standardize: bool) -> tuple[Rows, Rows]:
    """Both parts, in the scale of the training part.

    Args:
        train: [N, C].
        test: [M, C].
        standardize: Subtract the training part's mean and divide by its standard deviation, for each channel.

    Raises:
        ValueError: See `Rows`; or they have different numbers of channels.
    """
    x, z = Rows(train, "training part"), Rows(test, "test part")
    if x.shape[1] != z.shape[1]:
        raise ValueError(f"training features have {x.shape[1]} channels, test features {z.shape[1]}")
    if standardize:
        mean, scale = x.moments()
        x.standardise(mean, scale)
        z.standardise(mean, scale)
    return x, z
