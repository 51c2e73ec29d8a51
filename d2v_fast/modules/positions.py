"""Positions of tokens: a relative bias and fixed waves on a grid of patches, convolutions over time, distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.ops.distances import Distances


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


class _Fixed(nn.Module):
    """Positions with a fixed table, a buffer named `fixed`, that depends on the sizes of the model alone.

    It is no part of the state, so it is made again when the module leaves the meta device, which keeps no numbers.
    """

    fixed: str

    def make(self) -> Tensor:
        """The table."""
        raise NotImplementedError

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> _Fixed:
        without_numbers = self.get_buffer(self.fixed).is_meta
        super()._apply(fn, recurse)
        table = self.get_buffer(self.fixed)
        if without_numbers and not table.is_meta:
            table.copy_(self.make())
        return self


class RelativePositionBias(_Fixed):
    """A learned bias on the attention scores, shared by all blocks and computed once per forward pass."""

    index: Tensor
    fixed = "index"

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.grid = grid
        height, width = grid
        self.table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1) + 3, heads, dtype=torch.float32))
        # Not persistent and not a parameter: a moving average of it would point at wrong rows.
        self.register_buffer("index", self.make(), persistent=False)

    def make(self) -> Tensor:
        """See `relative_index`."""
        return relative_index(*self.grid)

    def forward(self) -> Tensor:
        """Float [1, heads, T + 1, T + 1], contiguous."""
        tokens = self.index.shape[0]
        bias = self.table.index_select(0, self.index.flatten())
        return bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


class SinCosPositions(_Fixed):
    """Fixed sine-cosine positions added to the patches (data2vec 2.0; Vaswani et al., 2017, in two dimensions)."""

    table: Tensor
    fixed = "table"

    def __init__(self, grid: tuple[int, int], dim: int) -> None:
        """A quarter of the channels each for sine and cosine of x and of y, wavelengths from 2 pi up to 10,000 * 2 pi.

        Raises:
            ValueError: if `dim` is not a multiple of 4.
        """
        super().__init__()
        if dim % 4:
            raise ValueError(f"transformer.dim must be a multiple of 4 for sincos positions, got {dim}")
        self.grid, self.dim = grid, dim
        self.register_buffer("table", self.make(), persistent=False)

    def make(self) -> Tensor:
        """float32 [T, dim]."""
        y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in self.grid), indexing="ij")
        frequencies = 10_000.0 ** -(torch.arange(self.dim // 4, dtype=torch.float64) / (self.dim // 4))
        angles = [side.flatten()[:, None] * frequencies for side in (x, y)]
        return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] to the same; T may be less than the grid has, if its last rows are left out."""
        return x + self.table[: x.shape[1]].to(x.dtype)


class PositionConvolutions(nn.Module):
    """A stack of grouped convolutions over time with SAME padding, LayerNorm without affine, GELU (paper, section 4.2).

    The stack's output is added to its input by the encoder; padding is not treated between the layers, as released.
    """

    def __init__(self, dim: int, depth: int, kernel: int, groups: int, *, fused: bool = False) -> None:
        """`fused` computes a layer by `ops.decoder_layer`; runs of data2vec 1.0 have begun with torch's bits."""
        super().__init__()
        self.fused, self.groups = fused, groups
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups, dtype=torch.float32) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        frames, dim = x.shape[1:]
        for convolution in self.convolutions:
            if self.fused:
                weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
                x = ops.decoder_layer(x, weight, bias, self.groups, residual=False)
                continue
            x = convolution(x.transpose(1, 2)).transpose(1, 2)[:, :frames]  # an even kernel makes one frame too many
            x = F.gelu(F.layer_norm(x, (dim,)))
        return x


def alibi_slopes(heads: int) -> Tensor:
    """float32 [heads]: how fast the scores of each head fall off with distance (Press et al., 2022).

    2^(-8 / heads) and its powers, where `heads` is a power of two; else those of the largest power of two below it, and
    every other one of twice as many heads.
    """

    def powers(count: int) -> Tensor:
        return 2.0 ** (-8.0 / count * torch.arange(1, count + 1, dtype=torch.float64, device="cpu"))

    whole = 1 << (heads.bit_length() - 1)
    return torch.cat([powers(whole), powers(2 * whole)[::2][: heads - whole]]).float()


class Alibi(_Fixed):
    """Attention that falls off with distance, the same in all blocks: a learned factor for each head on a fixed slope.

    A head whose factor is below 0 has no bias and gets no gradient, as released.
    """

    slopes: Tensor
    fixed = "slopes"

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.ones(heads, dtype=torch.float32))
        self.register_buffer("slopes", self.make(), persistent=False)

    def make(self) -> Tensor:
        """See `alibi_slopes`."""
        return alibi_slopes(self.heads)

    def forward(self) -> Distances:
        """The bias on the scores."""
        return Distances(self.scale.clamp_min(0) * self.slopes)
