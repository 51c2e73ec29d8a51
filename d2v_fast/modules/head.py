"""From the student's output at the masked positions to predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast.modules.linear import Linear


class RegressionHead(nn.Module):
    """One linear map, or hidden layers of width 2 * C with exact GELU between.

    The released speech and vision code has one map, the released text code two.
    """

    def __init__(self, dim: int, layers: int) -> None:
        """`layers` counts the linear maps.

        Raises:
            ValueError: if there are none.
        """
        super().__init__()
        if layers < 1:
            raise ValueError(f"head.layers must be at least 1, got {layers}")
        sizes = [dim, *[2 * dim] * (layers - 1), dim]
        self.layers = nn.ModuleList(Linear(sizes[i], sizes[i + 1], dtype=torch.float32) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[M, C] to [M, C]."""
        for i, layer in enumerate(self.layers):
            x = layer(F.gelu(x) if i else x)
        return x
