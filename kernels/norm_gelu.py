"""LayerNorm with weight and bias and the exact GELU of rows, forward and backward; a program for a share of the rows.

A row is in registers and so are weight and bias, which a program reads once; the next row is on its way while one is
worked on. The backward pass is given the mean and the scale of each row and computes everything else again. Sums over
rows, for the gradients of weight and bias, are one for each program: shares follow from the number of rows, so neither
their sums nor the order in which the launcher adds them up depend on the device.
"""

from __future__ import annotations

import triton
import triton.language as tl
from d2v_fast.kernels.decoder_layer import gelu, gelu_slope, normalised


@triton.jit
def norm_gelu(
    x: tl.tensor,  # [rows, C]
    weight: tl.tensor,  # [C]
    bias: tl.tensor,  # [C]
    y: tl.tensor,  # [rows, C]
    means: tl.tensor,  # float32 [rows]
    scales: tl.tensor,  # float32 [rows]: 1 / sqrt(variance + eps)
    rows: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    share: tl.tensor,  # rows of a program
    BLOCK: tl.constexpr,
) -> None:
    """Some rows of y = gelu(norm(x) * weight + bias)."""
    at = tl.arange(0, BLOCK)
    inside = at < channels
    w, b = _parameters(weight + at, bias + at, inside)
    first = tl.program_id(0).to(tl.int64) * share
    last = tl.minimum(first + share, rows)
    coming = _row_of(x + at, first, last, channels, inside)
    for row in range(first, last):
        z = coming.to(tl.float32)
        coming = _row_of(x + at, row + 1, last, channels, inside)
        u, mean, scale = normalised(z, inside, channels, eps)
        tl.store(y + row * channels + at, gelu(u * w + b).to(y.dtype.element_ty), mask=inside)
        tl.store(means + row, mean)
        tl.store(scales + row, scale)


@triton.jit
def norm_gelu_backward(
    x: tl.tensor,  # as in `norm_gelu`
    weight: tl.tensor,
    bias: tl.tensor,
    gradient: tl.tensor,  # [rows, C], of y
    means: tl.tensor,
    scales: tl.tensor,
    of_x: tl.tensor,  # [rows, C]
    sums: tl.tensor,  # float32 [programs, 2, C]: shares of the gradients of weight and bias
    rows: tl.tensor,
    channels: tl.tensor,
    share: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """The gradient of some rows, and their share of those of weight and bias."""
    at = tl.arange(0, BLOCK)
    inside = at < channels
    w, b = _parameters(weight + at, bias + at, inside)
    of_weight, of_bias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0).to(tl.int64) * share
    last = tl.minimum(first + share, rows)
    coming_x = _row_of(x + at, first, last, channels, inside)
    coming_g = _row_of(gradient + at, first, last, channels, inside)
    for row in range(first, last):
        z, g = coming_x.to(tl.float32), coming_g.to(tl.float32)
        coming_x = _row_of(x + at, row + 1, last, channels, inside)
        coming_g = _row_of(gradient + at, row + 1, last, channels, inside)
        mean, scale = tl.load(means + row), tl.load(scales + row)
        u = (z - mean) * scale
        slope = g * gelu_slope(u * w + b)  # 0 outside, where g is
        of_weight += slope * u
        of_bias += slope
        slope *= w
        shift, tilt = tl.sum(slope, 0) / channels, tl.sum(slope * u, 0) / channels
        result = (slope - shift - u * tilt) * scale
        tl.store(of_x + row * channels + at, result.to(of_x.dtype.element_ty), mask=inside)
    to = sums + tl.program_id(0).to(tl.int64) * 2 * channels + at
    tl.store(to, of_weight, mask=inside)
    tl.store(to + channels, of_bias, mask=inside)


@triton.jit
def _parameters(weight: tl.tensor, bias: tl.tensor, inside: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    w = tl.load(weight, mask=inside, other=0.0).to(tl.float32)
    return w, tl.load(bias, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _row_of(tensor: tl.tensor, row: tl.tensor, last: tl.tensor, channels: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """A row, 0 behind the program's last one."""
    return tl.load(tensor + row * channels, mask=inside & (row < last), other=0.0)
