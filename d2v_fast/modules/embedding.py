"""Images, or other arrays on a grid, to patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2v_fast import ops


class Patches(nn.Module):
    """Image to patch embeddings: one convolution with kernel = stride = patch size; also the class and mask tokens."""

    def __init__(
        self, size: tuple[int, int], patch: tuple[int, int], channels: int, dim: int, *, mask_token: bool = True
    ) -> None:
        """An image of at most `size` (height, width) is cut into patches of `patch` (height, width).

        data2vec 2.0 has no `mask_token`.

        Raises:
            ValueError: if a side of the image is not a multiple of the patch's.
        """
        super().__init__()
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(f"an image of {size[0]} x {size[1]} is no grid of patches of {patch[0]} x {patch[1]}")
        self.grid = (size[0] // patch[0], size[1] // patch[1])
        self.patches = nn.Conv2d(channels, dim, patch, patch, dtype=torch.float32)
        self.class_token = nn.Parameter(torch.zeros(dim, dtype=torch.float32))
        self.mask_token = nn.Parameter(torch.zeros(dim, dtype=torch.float32)) if mask_token else None

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, height, width] to [B, T, C], row by row; a product of the flattened patches."""
        high, wide = self.patches.kernel_size
        batch, channels = images.shape[:2]
        height, width = images.shape[2] // high, images.shape[3] // wide
        cut = images.view(batch, channels, height, high, width, wide).permute(0, 2, 4, 1, 3, 5)
        flat = cut.reshape(batch, height * width, channels * high * wide)
        return ops.linear(flat, self.patches.weight.flatten(1), self.patches.bias)
