"""Distances between tokens as a bias on the attention scores (ALiBi: Press et al., 2022, in both directions)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distances:
    """The bias -factor * |i - j| between the tokens at positions i and j; 0 to and from tokens without a position.

    Linear in a factor for each head, so that nothing of the size of the scores has to be made or kept.
    """

    factors: Tensor
    """[heads], not negative."""

    extra: int = 0
    """Tokens without a position before each sequence; a packing has its own number of them."""

    visible: Tensor | None = None
    """bool [N, S], whether a token may be attended to; None: all. Of packed sequences: bool [S]."""

    def bias(self, positions: Tensor) -> Tensor:
        """The bias itself.

        Args:
            positions: int64 [..., S], below 0 where there is none.

        Returns:
            [..., heads, S, S], of the dtype of the factors.
        """
        apart = (positions.unsqueeze(-1) - positions.unsqueeze(-2)).abs()
        placed = positions >= 0
        apart = apart.where(placed.unsqueeze(-1) & placed.unsqueeze(-2), 0)
        return -self.factors[:, None, None] * apart.unsqueeze(-3).to(self.factors.dtype)

    def dense(self, length: int) -> Tensor:
        """The bias over whole sequences of `length` tokens, extra ones included.

        Returns:
            [1 or N, heads, length, length], minus infinity where a token may not be attended to.
        """
        positions = torch.arange(length, dtype=torch.int64, device=self.factors.device) - self.extra
        bias = self.bias(positions).unsqueeze(0)
        return bias if self.visible is None else bias.masked_fill(~self.visible[:, None, None, :], -torch.inf)
