"""Relative positions of image patches; the position convolutions of speech are in convolution.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def relative_index(height: int, width: int) -> Tensor:
    """Row of the bias table for each pair of tokens (BEiT's, which Swin Transformer introduced).

    Args:
        height: patches in a column.
        width: patches in a row.

    Returns:
        int64 [T + 1, T + 1] with T = height * width and the class token first. Two patches give their offset,
        (dy + height - 1) * (2 * width - 1) + dx + width - 1; the last three rows of the table are class token to patch,
        patch to class token, and class token to itself.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    offsets = (2 * height - 1) * (2 * width - 1)
    index = torch.empty(height * width + 1, height * width + 1, dtype=torch.int64)
    index[1:, 1:] = (y[:, None] - y + height - 1) * (2 * width - 1) + (x[:, None] - x + width - 1)
    index[0, :] = offsets
    index[:, 0] = offsets + 1
    index[0, 0] = offsets + 2
    return index


class RelativePositionBias(nn.Module):
    """A learned bias on the attention scores, shared by all blocks and computed once per forward pass."""

    index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        height, width = grid
        self.table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1) + 3, heads))
        # Not persistent and not a parameter: a moving average of it would point at wrong rows.
        self.register_buffer("index", relative_index(height, width), persistent=False)

    def forward(self) -> Tensor:
        """Float [1, heads, T + 1, T + 1], contiguous."""
        tokens = self.index.shape[0]
        bias = self.table.index_select(0, self.index.flatten())
        return bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
