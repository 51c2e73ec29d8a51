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
    u, _ = _normalised(tl.load(z + start + at, mask=inside, other=0.0).to(tl.float32), inside, channels, eps)
    result = u * (0.5 + 0.5 * tl.erf(u * 0.7071067811865476)) + added
    tl.store(y + start + at, result.to(y.dtype.element_ty), mask=inside)


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
    u, scale = _normalised(tl.load(z + start + at, mask=inside, other=0.0).to(tl.float32), inside, channels, eps)
    below = 0.5 + 0.5 * tl.erf(u * 0.7071067811865476)
    density = 0.3989422804014327 * tl.exp(-0.5 * u * u)
    slope = g * (below + u * density)
    shift = tl.sum(slope, 0) / channels
    tilt = tl.sum(slope * u, 0) / channels
    tl.store(of_z + start + at, ((slope - shift - u * tilt) * scale).to(of_z.dtype.element_ty), mask=inside)


@triton.jit
def _normalised(z: tl.tensor, inside: tl.tensor, channels: tl.tensor, eps: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The row without its mean and of variance 1, 0 outside; and what it was multiplied by."""
    mean = tl.sum(z, 0) / channels
    away = tl.where(inside, z - mean, 0.0)
    scale = tl.rsqrt(tl.sum(away * away, 0) / channels + eps)
    return away * scale, scale
