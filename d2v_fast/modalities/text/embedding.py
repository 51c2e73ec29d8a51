"""Tokens to vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Tokens to vectors: token and learned position embeddings, then LayerNorm.

    Positions are counted over the tokens that are not padding, from pad_id + 1; padding has position pad_id, and both
    tables keep that row at zero, without gradient.
    """

    def __init__(self, vocab_size: int, max_length: int, pad_id: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.max_length = max_length
        self.pad_id = pad_id
        self.tokens = nn.Embedding(vocab_size, dim, padding_idx=pad_id, dtype=torch.float32)
        self.positions = nn.Embedding(max_length + pad_id + 1, dim, padding_idx=pad_id, dtype=torch.float32)
        self.norm = nn.LayerNorm(dim, norm_eps, dtype=torch.float32)

    def forward(self, tokens: Tensor) -> Tensor:
        """Int64 [B, T] to [B, T, C]."""
        real = tokens != self.pad_id
        positions = real.cumsum(1) * real + self.pad_id
        return self.norm(self.tokens(tokens) + self.positions(positions))
