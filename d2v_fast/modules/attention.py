"""Multi-head self-attention with one fused projection and torch's scaled dot product attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast.ops.packing import Packing


class Attention(nn.Module):
    """Self-attention; every bias on the scores (relative positions, padding) is one tensor, or a packing."""

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
        self.qkv = nn.Linear(dim, 3 * dim, bias=key_bias)
        self.q_bias = None if key_bias else nn.Parameter(torch.zeros(dim))
        self.v_bias = None if key_bias else nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | Packing | None = None) -> Tensor:
        """Attend over the sequence.

        Args:
            x: [N, S, C]; packed sequences are [1, S, C].
            bias: bool (True: may be attended to) or float (added to the scores), broadcast to [N, heads, S, S]; or the
                packing of x, whose kernel keeps the sequences apart.

        Returns:
            [N, S, C].
        """
        batch, length, dim = x.shape
        qkv_bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias).view(batch, length, 3, self.heads, dim // self.heads)
        dropout = self.dropout if self.training else 0.0
        if isinstance(bias, Packing):
            query, key, value = qkv.squeeze(0).unbind(1)
            return self.out(bias.kernel(query, key, value, bias, dropout).reshape(batch, length, dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if bias is not None and bias.dtype != torch.bool:
            bias = bias.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
