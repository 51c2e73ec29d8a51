"""Strided 1-D convolution on [B, T, C] as matrix products over strided views: no transposes, no unfolded copy.

A window of `kernel` frames that starts every `stride` frames is, in memory, one row of kernel * C numbers. Rows that do
not overlap (kernel = stride) are a matrix that BLAS reads in place; with kernel > stride the row is cut into pieces of
at most `stride` frames, and the products of the pieces are accumulated into the same output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def output_length(length: Any, kernel: int, stride: int) -> Any:
    """Frames that a convolution without padding makes of `length` frames (an int, an array or a tensor)."""
    return (length - kernel) // stride + 1


def _windows(x: Tensor, first: int, width: int, frames: int, stride: int) -> Tensor:
    """View of contiguous x [B, L, C] as [B, frames, width * C]: frames first .. first + width - 1 of each window."""
    batch, length, channels = x.shape
    size = (batch, frames, width * channels)
    return x[:, first:].as_strided(size, (length * channels, stride * channels, 1))


def _pieces(kernel: int, stride: int) -> list[tuple[int, int]]:
    """(first frame, width) of the pieces of a window that do not overlap their neighbours' pieces."""
    return [(first, min(stride, kernel - first)) for first in range(0, kernel, stride)]


# Operators of their own rather than an autograd.Function: torch.compile cannot trace writes through overlapping views.
@torch.library.custom_op("d2v_fast::strided_convolution", mutates_args=())
def _convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    batch, length, _ = x.shape
    out_channels, channels, kernel = weight.shape
    frames = output_length(length, kernel, stride)
    matrix = weight.permute(2, 1, 0).reshape(kernel * channels, out_channels)
    out = x.new_empty(batch, frames, out_channels)
    for first, width in _pieces(kernel, stride):
        part = matrix[first * channels : (first + width) * channels].expand(batch, -1, -1)
        out.baddbmm_(_windows(x, first, width, frames, stride), part, beta=float(first > 0))
    return out


@_convolve.register_fake
def _(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return x.new_empty(x.shape[0], output_length(x.shape[1], weight.shape[2], stride), weight.shape[0])


@torch.library.custom_op("d2v_fast::strided_convolution_backward", mutates_args=())
def _convolve_backward(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    out_channels, channels, kernel = weight.shape
    batch, frames, _ = grad.shape
    matrix = weight.permute(2, 1, 0).reshape(kernel * channels, out_channels)
    grad_x = torch.empty_like(x) if kernel >= stride else torch.zeros_like(x)
    grad_x[:, frames * stride :] = 0  # the first piece overwrites everything before
    grad_matrix = torch.empty_like(matrix)
    for first, width in _pieces(kernel, stride):
        piece = slice(first * channels, (first + width) * channels)
        part = matrix[piece].t().expand(batch, -1, -1)
        _windows(grad_x, first, width, frames, stride).baddbmm_(grad, part, beta=float(first > 0))
        windows = _windows(x, first, width, frames, stride)
        torch.sum(torch.bmm(windows.transpose(1, 2), grad), 0, out=grad_matrix[piece])
    return grad_x, grad_matrix.view(kernel, channels, out_channels).permute(2, 1, 0).contiguous()


@_convolve_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.stride = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_convolve_backward(grad.contiguous(), *ctx.saved_tensors, ctx.stride), None


_convolve.register_autograd(_backward, setup_context=_save)


def strided_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolution over time without padding or bias, under autocast in its format.

    Args:
        x: [B, L, in_channels].
        weight: [out_channels, in_channels, kernel], as `torch.nn.Conv1d` stores it.
        stride: frames between the starts of two windows.

    Returns:
        [B, (L - kernel) // stride + 1, out_channels].
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    kernel = weight.shape[2]
    if x.shape[2] == 1:  # the waveform: windows are short, and it needs no gradient
        return F.linear(x.squeeze(2).unfold(1, kernel, stride), weight.squeeze(1))
    convolved: Tensor = _convolve(x.contiguous(), weight, stride)
    return convolved


class ConvolutionBlock(nn.Module):
    """Strided convolution, LayerNorm over channels (affine, eps 1e-5), exact GELU, as in wav2vec 2.0."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))
        self.norm = nn.LayerNorm(out_channels)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, in] to [B, T, out]."""
        return F.gelu(self.norm(strided_convolution(x, self.weight, self.stride)))


class PositionConvolutions(nn.Module):
    """Positions for speech: a stack of grouped convolutions with SAME padding, LayerNorm without affine, GELU.

    The stack's output is added to its input by the encoder; padding is not treated between the layers, as released.
    """

    def __init__(self, dim: int, depth: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        frames, dim = x.shape[1:]
        for convolution in self.convolutions:
            x = convolution(x.transpose(1, 2)).transpose(1, 2)[:, :frames]  # an even kernel makes one frame too many
            x = F.gelu(F.layer_norm(x, (dim,)))
        return x


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None


class SpeechFrames(nn.Module):
    """Waveform to frames of width C: the convolutions, a LayerNorm and a linear projection, as in wav2vec 2.0."""

    def __init__(self, layers: tuple[tuple[int, int, int], ...], dim: int, gradient_scale: float) -> None:
        super().__init__()
        self.layers = layers
        self.gradient_scale = gradient_scale
        sizes = [1, *(channels for channels, _, _ in layers)]
        self.convolutions = nn.ModuleList(
            ConvolutionBlock(inputs, outputs, kernel, stride)
            for inputs, (outputs, kernel, stride) in zip(sizes, layers, strict=False)
        )
        self.norm = nn.LayerNorm(sizes[-1])
        self.projection = nn.Linear(sizes[-1], dim)
        self.mask_token = nn.Parameter(torch.empty(dim).uniform_())

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, samples] to [B, T, C]."""
        x = waveform.unsqueeze(2)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient_scale != 0):
            for convolution in self.convolutions:
                x = convolution(x)
        if self.gradient_scale not in (0.0, 1.0):
            x = _ScaleGradient.apply(x, self.gradient_scale)
        return self.projection(self.norm(x))
