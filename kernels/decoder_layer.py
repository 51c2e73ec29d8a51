"""Behind a decoder layer's convolution: norm without affine parameters, exact GELU, residual; a program for a row.

The whole row is in registers: mean and variance are two passes over them. Only the convolution's result is kept for the
backward pass, which computes the statistics again.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def finish(
    z: tl.tensor,  # [rows, C]
    x: tl.tensor,  # [rows, C], added; or None
    y: tl.tensor,  # [rows, C]
    channels: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One row of y = (x +) gelu(norm(z))."""
    start = tl.program_id(0).to(tl.int64) * channels
    at = tl.arange(0, BLOCK)
    inside = at < channels
    added = tl.zeros([BLOCK], tl.float32)
    if x is not None:
        added = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
    u, _, _ = normalised(tl.load(z + start + at, mask=inside, other=0.0).to(tl.float32), inside, channels, eps)
    tl.store(y + start + at, (gelu(u) + added).to(y.dtype.element_ty), mask=inside)


@triton.jit
def unfinish(
    z: tl.tensor,  # [rows, C]
    gradient: tl.tensor,  # [rows, C], of y
    of_z: tl.tensor,  # [rows, C]
    channels: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One row of the gradient of z."""
    start = tl.program_id(0).to(tl.int64) * channels
    at = tl.arange(0, BLOCK)
    inside = at < channels
    g = tl.load(gradient + start + at, mask=inside, other=0.0).to(tl.float32)
    u, _, scale = normalised(tl.load(z + start + at, mask=inside, other=0.0).to(tl.float32), inside, channels, eps)
    slope = g * gelu_slope(u)
    shift = tl.sum(slope, 0) / channels
    tilt = tl.sum(slope * u, 0) / channels
    tl.store(of_z + start + at, ((slope - shift - u * tilt) * scale).to(of_z.dtype.element_ty), mask=inside)


@triton.jit
def normalised(
    z: tl.tensor, inside: tl.tensor, channels: tl.tensor, eps: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The row without its mean and of variance 1, 0 outside; the mean, and what the row was multiplied by."""
    mean = tl.sum(z, 0) / channels
    away = tl.where(inside, z - mean, 0.0)
    scale = tl.rsqrt(tl.sum(away * away, 0) / channels + eps)
    return away * scale, mean, scale


@triton.jit
def gelu(u: tl.tensor) -> tl.tensor:
    """The exact GELU."""
    below, _ = _normal(u)
    return u * below


@triton.jit
def gelu_slope(u: tl.tensor) -> tl.tensor:
    """Its derivative."""
    below, density = _normal(u)
    return below + u * density


@triton.jit
def _normal(u: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The normal distribution below u, and its density there.

    The tail is exp(-u^2 / 2) times a polynomial of t = 1 / (1 + 0.35 |u|), whose largest relative error is 4e-8 (form:
    Abramowitz and Stegun 7.1.26). The exponential serves both results, and there is no jump in it: tl.erf has four
    for each number, which the lanes of a warp take differently, and it loses the digits of the tail below zero.
    """
    density = tl.exp2(u * u * -0.7213475204444817)
    root = tl.rsqrt(1.0 + 0.35 * tl.abs(u))  # a division would be six instructions more
    t = root * root
    tail = -0.0291456785
    tail = tail * t + 0.143970609
    tail = tail * t - 0.255712301
    tail = tail * t + 0.159172252
    tail = tail * t - 0.0231087338
    tail = tail * t + 0.105507627
    tail = tail * t + 0.11983294
    tail = tail * t + 0.139861867
    tail = tail * t + 0.139621407
    tail *= t * density
    return tl.where(u < 0.0, tail, 1.0 - tail), density * 0.3989422804014327
