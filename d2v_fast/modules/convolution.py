"""A signal to frames: strided convolutions over time, as in wav2vec 2.0 (Baevski et al., 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.modules.linear import Linear


class ConvolutionBlock(nn.Module):
    """Strided convolution, LayerNorm over channels (affine, eps 1e-5), exact GELU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, dtype=torch.float32))
        self.norm = nn.LayerNorm(out_channels, dtype=torch.float32)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, in] to [B, T, out]."""
        norm = self.norm
        return ops.front_layer(x, self.weight, norm.weight, norm.bias, self.stride, norm.eps)


class Frames(nn.Module):
    """A signal to frames of width C: the convolutions, a LayerNorm and a linear projection; also the mask token."""

    def __init__(
        self,
        channels: int,
        layers: tuple[tuple[int, int, int], ...],
        dim: int,
        gradient_scale: float,
        *,
        mask_token: bool = True,
    ) -> None:
        """A signal of `channels` channels; `layers` are (channels, kernel, stride) of each convolution.

        The gradient that reaches the convolutions is multiplied by `gradient_scale`. data2vec 2.0 has no `mask_token`.
        """
        super().__init__()
        self.gradient_scale = gradient_scale
        sizes = [channels, *(outputs for outputs, _, _ in layers)]
        self.convolutions = nn.ModuleList(
            ConvolutionBlock(inputs, outputs, kernel, stride)
            for inputs, (outputs, kernel, stride) in zip(sizes, layers, strict=False)
        )
        self.norm = nn.LayerNorm(sizes[-1], dtype=torch.float32)
        self.projection = Linear(sizes[-1], dim, dtype=torch.float32)
        self.mask_token = nn.Parameter(torch.empty(dim, dtype=torch.float32).uniform_()) if mask_token else None

    def forward(self, signal: Tensor) -> Tensor:
        """[B, samples, channels] to [B, T, C]."""
        x = signal
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient_scale != 0):
            for convolution in self.convolutions:
                x = convolution(x)
        if self.gradient_scale not in (0.0, 1.0):
            x = _ScaleGradient.apply(x, self.gradient_scale)
        return self.projection(self.norm(x))


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None
