"""Images to patches and tokens to vectors; the speech embedding is in convolution.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Patches(nn.Module):
    """Image to patch embeddings: one convolution with kernel = stride = patch size; also the class and mask tokens."""

    def __init__(self, image_size: int, patch_size: int, channels: int, dim: int) -> None:
        """The grid has image_size // patch_size patches on each side.

        Raises:
            ValueError: if `image_size` is not a multiple of `patch_size`.
        """
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"embedding.image_size {image_size} is not a multiple of embedding.patch_size {patch_size}"
            )
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.patches = nn.Conv2d(channels, dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, height, width] to [B, T, C], row by row; a product of the flattened patches."""
        size = self.patches.kernel_size[0]
        batch, channels = images.shape[:2]
        height, width = self.grid
        cut = images.view(batch, channels, height, size, width, size).permute(0, 2, 4, 1, 3, 5)
        flat = cut.reshape(batch, height * width, channels * size * size)
        return F.linear(flat, self.patches.weight.flatten(1), self.patches.bias)


class Tokens(nn.Module):
    """Tokens to vectors: token and learned position embeddings, then LayerNorm.

    Positions are counted over the tokens that are not padding, from pad_id + 1; padding has position pad_id, and both
    tables keep that row at zero, without gradient.
    """

    def __init__(self, vocab_size: int, max_length: int, pad_id: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.max_length = max_length
        self.pad_id = pad_id
        self.tokens = nn.Embedding(vocab_size, dim, padding_idx=pad_id)
        self.positions = nn.Embedding(max_length + pad_id + 1, dim, padding_idx=pad_id)
        self.norm = nn.LayerNorm(dim, norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Int64 [B, T] to [B, T, C]."""
        real = tokens != self.pad_id
        positions = real.cumsum(1) * real + self.pad_id
        return self.norm(self.tokens(tokens) + self.positions(positions))
