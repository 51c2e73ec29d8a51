"""One block of the context network: attention and a feed-forward network, each a residual branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.modules.attention import Attention
from d2v_fast.modules.linear import Linear
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.packing import Packing


class BlockOutput(NamedTuple):
    """What a block gives: its output and its feed-forward branch."""

    output: Tensor
    """[N, S, C], or [M, C] if `rows` were asked for."""

    ffn: Tensor
    """The feed-forward network's output before dropout and the residual sum, times the layer scale if there is one."""


class FeedForward(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up = Linear(dim, hidden, dtype=torch.float32)
        self.down = Linear(hidden, dim, dtype=torch.float32)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        hidden = self.up(x)
        if not (self.training and self.dropout):
            return ops.gelu_linear(hidden, self.down.weight, self.down.bias)
        return self.down(F.dropout(F.gelu(hidden), self.dropout, self.training))


class Block(nn.Module):
    """Post-norm: h = norm(x + attention(x)), norm(h + ffn(h)). Pre-norm: h = x + attention(norm(x)), h + ffn(norm(h)).

    Each branch is multiplied by its layer scale, goes through dropout and, as a whole per sample, drop path.

    Attributes:
        path: what `drop_path_factor` is called by; None: itself.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        *,
        norm_first: bool = False,
        norm_eps: float = 1e-5,
        key_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.dropout = dropout
        self.drop_path = drop_path
        self.path: Callable[..., Tensor | None] | None = None
        self.attention = Attention(dim, heads, key_bias=key_bias, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(dim, norm_eps, dtype=torch.float32)
        self.ffn = FeedForward(dim, ffn_dim, activation_dropout)
        self.ffn_norm = nn.LayerNorm(dim, norm_eps, dtype=torch.float32)
        self.attention_scale = self.ffn_scale = None
        if layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.full((dim,), layer_scale, dtype=torch.float32))
            self.ffn_scale = nn.Parameter(torch.full((dim,), layer_scale, dtype=torch.float32))

    def forward(
        self, x: Tensor, bias: Tensor | Packing | Distances | None = None, rows: Tensor | None = None
    ) -> BlockOutput:
        """Run the block.

        Args:
            x: [N, S, C]; packed sequences are [1, S, C].
            bias: on the attention scores, or the packing of x, see `Attention`.
            rows: int64 [M], flat indices into N * S: the feed-forward half runs on these positions only (attention
                needs all of them), for the last block of a student.
        """
        samples, length, dim = x.shape
        branch = self.attention(self.attention_norm(x) if self.norm_first else x, bias)
        if self.attention_scale is not None:
            branch = self.attention_scale * branch
        packing = bias if isinstance(bias, Packing) else None
        path = self.drop_path_factor if self.path is None else self.path
        h = x + self._drop(branch, path(x, packing))
        factor = path(x, packing)
        if rows is not None:  # before the norm: it works on each position alone
            h = h.reshape(samples * length, dim).index_select(0, rows)
            if factor is not None:
                factor = factor.expand(samples, length, 1).reshape(-1, 1).index_select(0, rows)
        if not self.norm_first:
            h = self.attention_norm(h)
        feature = self.ffn(self.ffn_norm(h) if self.norm_first else h)
        if self.ffn_scale is not None:
            feature = self.ffn_scale * feature
        output = h + self._drop(feature, factor)
        return BlockOutput(output if self.norm_first else self.ffn_norm(output), feature)

    def drop_path_factor(self, x: Tensor, packing: Packing | None) -> Tensor | None:
        """0 for a sample that skips the branch, else 1 / (1 - drop_path); None if none can skip.

        [N, 1, 1], or for packed sequences [1, S, 1].
        """
        if not self.training or self.drop_path == 0:
            return None
        keep = 1 - self.drop_path
        samples = x.shape[0] if packing is None else len(packing.lengths)
        factor = x.new_empty(samples, 1, 1).bernoulli_(keep).div_(keep)
        return factor if packing is None else packing.spread(factor)

    def _drop(self, branch: Tensor, factor: Tensor | None) -> Tensor:
        branch = F.dropout(branch, self.dropout, self.training)
        return branch if factor is None else branch * factor
