"""Multi-head self-attention with one fused projection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.modules.linear import Linear
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.packing import Packing


class Attention(nn.Module):
    """Self-attention; what the scores are changed by (relative positions, padding) is one tensor, or a packing.

    Attributes:
        attend: what `ops.attention` is called by; None: itself.
    """

    def __init__(self, dim: int, heads: int, *, key_bias: bool = True, dropout: float = 0.0) -> None:
        """`key_bias=False` leaves the key projection without a bias, as the vision recipe has it.

        Raises:
            ValueError: if `dim` is not a multiple of `heads`.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(f"transformer.dim {dim} is not a multiple of transformer.heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.qkv = Linear(dim, 3 * dim, bias=key_bias, dtype=torch.float32)
        self.q_bias = None if key_bias else nn.Parameter(torch.zeros(dim, dtype=torch.float32))
        self.v_bias = None if key_bias else nn.Parameter(torch.zeros(dim, dtype=torch.float32))
        self.out = Linear(dim, dim, dtype=torch.float32)
        self.attend: Callable[..., Tensor] | None = None

    def forward(self, x: Tensor, bias: Tensor | Packing | Distances | None = None) -> Tensor:
        """Attend over the sequence.

        Args:
            x: [N, S, C]; packed sequences are [1, S, C].
            bias: bool (True: may be attended to) or float (added to the scores), broadcast to [N, heads, S, S]; a bias
                by distances; or the packing of x, whose kernel keeps the sequences apart and adds its own bias.

        Returns:
            [N, S, C].
        """
        batch, length, dim = x.shape
        qkv_bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = ops.linear(x, self.qkv.weight, qkv_bias).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.unbind(2)
        attend = ops.attention if self.attend is None else self.attend
        mixed = attend(query, key, value, bias, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.reshape(batch, length, dim))
