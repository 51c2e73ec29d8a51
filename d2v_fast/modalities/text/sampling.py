"""How sequences of tokens become rows of a batch: nothing is random about text but its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.plan import fill_unknown
from d2v_fast.errors import DataError
from d2v_fast.modalities.text.transforms import tokens_into


@dataclass(frozen=True)
class TokenPlan:
    """How many tokens each sequence has."""

    counts: np.ndarray
    """int64 [B], tokens; what a row has more is padding."""

    @property
    def width(self) -> int:
        """Tokens of a row: of the longest sequence."""
        return int(self.counts.max())

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 [B], valid tokens of each row; None if all rows are full."""
        return None if (self.counts == self.width).all() else self.counts


class TokenSampling:
    """See `Sampling`.

    Args:
        pad_id: Fills rows up.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def usable(self, sizes: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.arange(len(sizes), dtype=np.int64)

    def known(self, sizes: np.ndarray) -> np.ndarray:
        """An unreadable sequence counts as one of the median length."""
        return fill_unknown(sizes)

    def lengths(self, sizes: np.ndarray) -> np.ndarray | None:
        """Tokens."""
        return sizes

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """`loader.batch_tokens`."""
        if config.batch_tokens is not None and config.batch_tokens < longest:
            raise DataError(
                f"loader.batch_tokens is {config.batch_tokens}, less than one sequence of {longest}: "
                "raise it, or lower inputs.block_size"
            )
        return config.batch_tokens

    def longest(self, longest: int, budget: int | None) -> int:
        """Sequences are used whole."""
        return longest

    def draw(self, sizes: np.ndarray, ids: np.ndarray, most: int, seed: int, epoch: int) -> TokenPlan:
        """The lengths."""
        return TokenPlan(sizes)

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """int64 [count, tokens]."""
        return (count, details.width), torch.int64

    def write(self, out: Tensor, sample: Any, details: TokenPlan, row: int, size: np.ndarray, name: str) -> None:
        """The tokens, and padding behind them."""
        length = int(details.counts[row])
        tokens_into(out[:length], sample, name)
        out[length:] = self._pad_id

    def remarks(self, sizes: np.ndarray, used: int) -> Sequence[str]:
        """Nothing."""
        return []
