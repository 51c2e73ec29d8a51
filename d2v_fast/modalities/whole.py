"""Samples that are used whole: rows of a batch are filled up to the longest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.plan import fill_unknown
from d2v_fast.errors import SampleError


@dataclass(frozen=True)
class WholePlan:
    """How long each sample is."""

    counts: np.ndarray
    """int64 [B], entries; what a row has more is padding."""

    @property
    def width(self) -> int:
        """Entries of a row: of the longest sample."""
        return int(self.counts.max())

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 [B], valid entries of each row; None if all rows are full."""
        return None if (self.counts == self.width).all() else self.counts


class WholeSampling:
    """Takes every sample whole, with nothing random about it; see `Sampling`.

    Args:
        prepare: (what the source gave, name for messages) -> the sample [length, *entry]; it raises SampleError for
            what it cannot use.
        entry: Shape of one entry of a sample; () for a sequence of numbers.
        dtype: Of the inputs.
        fill: What rows are filled up with.
    """

    def __init__(
        self,
        prepare: Callable[[Any, str], Tensor],
        *,
        entry: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
        fill: float = 0,
    ) -> None:
        self._prepare, self._entry, self._dtype, self._fill = prepare, entry, dtype, fill

    def usable(self, sizes: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.arange(len(sizes), dtype=np.int64)

    def known(self, sizes: np.ndarray) -> np.ndarray:
        """An unreadable sample counts as one of the median length."""
        return fill_unknown(sizes)

    def lengths(self, sizes: np.ndarray) -> np.ndarray | None:
        """The sizes."""
        return sizes

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """Only the number of samples counts."""
        return None

    def longest(self, longest: int, budget: int | None) -> int:
        """All of it."""
        return longest

    def draw(self, sizes: np.ndarray, ids: np.ndarray, most: int, seed: int, epoch: int) -> WholePlan:
        """The lengths."""
        return WholePlan(sizes)

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """[count, length of the longest, *entry]."""
        return (count, details.width, *self._entry), self._dtype

    def write(self, out: Tensor, sample: Any, details: WholePlan, row: int, size: np.ndarray, name: str) -> None:
        """The sample, and padding behind it."""
        length = int(details.counts[row])
        entries = self._prepare(sample, name)
        if tuple(entries.shape) != (length, *self._entry):
            raise SampleError(name, f"is {list(entries.shape)}, but the source said {[length, *self._entry]}")
        out[:length] = entries
        out[length:] = self._fill

    def remarks(self, sizes: np.ndarray, used: int) -> Sequence[str]:
        """Nothing."""
        return []
