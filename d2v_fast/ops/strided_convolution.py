"""Strided convolution over time of [B, T, C] as matrix products over strided views: no transposes, no unfolded copy.

A window of `kernel` frames that starts every `stride` frames is, in memory, one row of kernel * C numbers. Rows that do
not overlap (kernel = stride) are a matrix that BLAS reads in place; with kernel > stride the row is cut into pieces of
at most `stride` frames, and the products of the pieces are accumulated into the same output.

Where `ops.linear` asks oneDNN, so does this: frames with their channels side by side are what that library calls a
picture with channels last, one place high. Its own gradient of such weights took ten times as long as the products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops._library import Backend, differentiate, register, serve
from d2v_fast.ops.linear import by_onednn, in_bfloat16, linear
from d2v_fast.ops.shadows import rounded


def strided_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolution over time without padding or bias, under autocast in its format.

    Args:
        x: [B, L, in_channels].
        weight: [out_channels, in_channels, kernel], as `torch.nn.Conv1d` stores it.
        stride: frames between the starts of two windows.

    Returns:
        [B, (L - kernel) // stride + 1, out_channels].

    Raises:
        ValueError: the shapes do not fit each other, or there is less than one window.
    """
    if x.dim() != 3 or weight.dim() != 3 or x.shape[2] != weight.shape[1] or stride < 1:
        raise ValueError(
            f"x is {list(x.shape)}, weight {list(weight.shape)} and stride {stride}; they must be [B, L, in], "
            "[out, in, kernel] and at least 1"
        )
    if x.shape[1] < weight.shape[2]:
        raise ValueError(f"x has {x.shape[1]} frames, but a window takes {weight.shape[2]}")
    if in_bfloat16(x, weight):
        x, weight = x.to(torch.bfloat16), rounded(weight)
    elif torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if torch.compiler.is_exporting():  # a program for others has torch's operators only
        return F.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    if x.shape[2] == 1:  # a waveform: windows are short, and it needs no gradient
        return linear(x.squeeze(2).unfold(1, weight.shape[2], stride), weight.squeeze(1))
    convolved: Tensor = _forward(x.contiguous(), weight, stride)
    return convolved


def output_length(length: int, kernel: int, stride: int) -> int:
    """Frames that a convolution without padding makes of `length` frames."""
    return (length - kernel) // stride + 1


def _windows(x: Tensor, first: int, width: int, frames: int, stride: int) -> Tensor:
    """View of contiguous x [B, L, C] as [B, frames, width * C]: frames first .. first + width - 1 of each window."""
    batch, length, channels = x.shape
    size = (batch, frames, width * channels)
    return x[:, first:].as_strided(size, (length * channels, stride * channels, 1))


def _pieces(kernel: int, stride: int) -> list[tuple[int, int]]:
    """(first frame, width) of the pieces of a window that do not overlap their neighbours' pieces."""
    return [(first, min(stride, kernel - first)) for first in range(0, kernel, stride)]


def _convolve_cpu(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    frames = output_length(x.shape[1], weight.shape[2], stride)
    if not by_onednn(x, len(x) * frames * weight.numel()):
        return _convolve(x, weight, stride)
    return F.conv2d(_picture(x), weight.unsqueeze(2), stride=(1, stride)).squeeze(2).transpose(1, 2).contiguous()


def _backward_cpu(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    batch, frames, outputs = grad.shape
    if not by_onednn(x, batch * frames * weight.numel()):
        return _convolve_backward(grad, x, weight, stride)
    grad_x: Tensor = torch.ops.aten.convolution_backward(
        _picture(grad), _picture(x), weight.unsqueeze(2), None, [1, stride], [0, 0], [1, 1], False, [0, 0], 1,
        [True, False, False],
    )[0]  # fmt: skip
    grad_x = grad_x.squeeze(2).transpose(1, 2).contiguous()
    channels, kernel = weight.shape[1:]
    if x.dtype == torch.bfloat16:  # one product: parts would be rounded before they are added
        windows = _windows(x, 0, kernel, frames, stride).flatten(0, 1)
        grad_weight = grad.flatten(0, 1).t() @ windows
        return grad_x, grad_weight.view(outputs, kernel, channels).transpose(1, 2).contiguous()
    grad_weight = torch.zeros(outputs, kernel * channels, dtype=x.dtype, device=x.device)
    for first, width in _pieces(kernel, stride):
        piece = grad_weight[:, first * channels : (first + width) * channels]
        for one, windows in zip(grad, _windows(x, first, width, frames, stride), strict=True):
            piece += linear(one.t(), windows.contiguous().t())
    return grad_x, grad_weight.view(outputs, kernel, channels).transpose(1, 2).contiguous()


def _picture(x: Tensor) -> Tensor:
    """[B, L, C] as [B, C, 1, L] with channels last, the same memory."""
    return x.transpose(1, 2).unsqueeze(2)


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


def _convolve_fake(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return x.new_empty(x.shape[0], output_length(x.shape[1], weight.shape[2], stride), weight.shape[0])


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


def _backward_fake(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.stride = inputs[2]


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_backward(grad.contiguous(), *ctx.saved_tensors, ctx.stride), None


def _products() -> Backend:
    return Backend("BLAS (baddbmm over strided views)", "nothing is transposed; oneDNN where `linear` asks it")


# Operators rather than an autograd.Function: torch.compile cannot trace writes through overlapping views.
_forward = register(
    "strided_convolution(Tensor x, Tensor weight, int stride) -> Tensor",
    cpu=_convolve_cpu,
    cuda=_convolve,
    other=_convolve,
    fake=_convolve_fake,
)
_backward = register(
    "strided_convolution_backward(Tensor grad, Tensor x, Tensor weight, int stride) -> (Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_convolve_backward,
    other=_convolve_backward,
    fake=_backward_fake,
)
differentiate(_forward, _apply_backward, _save)
serve("strided_convolution", cpu=_products, cuda=_products)
