"""Positions of tokens in a data2vec encoder that was trained with d2v_fast; a part of `modeling_d2v_fast.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_d2v_fast import D2vFastConfig


class PositionConvolutions(nn.Module):
    """Positions of frames: convolutions over time, each with a norm and GELU."""

    def __init__(self, config: D2vFastConfig) -> None:
        super().__init__()
        dim, kernel = config.hidden_size, config.position_kernel
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=config.position_groups)
            for _ in range(config.position_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to the same."""
        frames, dim = x.shape[1:]
        for convolution in self.convolutions:
            x = F.gelu(F.layer_norm(convolution(x.transpose(1, 2)).transpose(1, 2)[:, :frames], (dim,)))
        return x


class RelativePositions(nn.Module):
    """A learned bias on the scores for each offset between two patches, and three for the class token."""

    def __init__(self, height: int, width: int, heads: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1) + 3, heads))

    def forward(self) -> Tensor:
        """[1, heads, T + 1, T + 1]."""
        places = torch.arange(self.height * self.width, device=self.table.device)
        y, x = places // self.width, places % self.width
        offsets = (2 * self.height - 1) * (2 * self.width - 1)
        index = (y[:, None] - y + self.height - 1) * (2 * self.width - 1) + (x[:, None] - x + self.width - 1)
        index = F.pad(F.pad(index, (1, 0), value=offsets + 1), (0, 0, 1, 0), value=offsets)
        index[0, 0] = offsets + 2
        return self.table[index].permute(2, 0, 1).unsqueeze(0)


class Alibi(nn.Module):
    """A bias on the scores that grows with the distance, by a learned factor for each head on a fixed slope."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, length: int, extra: int) -> Tensor:
        """[1, heads, extra + length, extra + length]: none to and from the extra tokens, which come first."""
        heads = len(self.scale)
        whole = 1 << (heads.bit_length() - 1)
        powers = [2.0 ** (-8.0 / whole * (i + 1)) for i in range(whole)]
        powers += [2.0 ** (-8.0 / (2 * whole) * (2 * i + 1)) for i in range(heads - whole)]
        factors = self.scale.clamp_min(0) * torch.tensor(powers).to(self.scale)
        places = torch.arange(length, device=factors.device)
        apart = F.pad((places[:, None] - places).abs(), (extra, 0, extra, 0))
        return -(factors[:, None, None] * apart.to(factors.dtype))[None]


def sincos(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Fixed waves [height * width, dim] in x and y."""
    places = torch.arange(height * width, dtype=torch.float64)
    frequencies = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [side[:, None] * frequencies for side in (places % width, places // width)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return waves.float().to(like)
