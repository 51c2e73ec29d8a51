"""Smooth-L1 loss of rows with its gradient, one warp per row: nothing is shared, nothing is atomic, the order is fixed.

Row i of the target belongs to position rows[i] of `pred`, or to position i without rows. A gradient with rows is
scattered into a buffer that the launcher has zeroed. Sums over rows are the launcher's (torch.sum, which is
deterministic).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def smooth_l1_forward(
    pred: tl.tensor,  # [positions, C]
    target: tl.tensor,  # [M, C]
    rows: tl.tensor,  # int64 [M], or None
    losses: tl.tensor,  # float32 [M]: the sum over C, times scale
    gradient: tl.tensor,  # like pred, or None where nobody asks for it: times factor
    channels: tl.tensor,
    beta: tl.tensor,
    inverse_beta: tl.tensor,  # finite also where 1 / beta is not
    scale: tl.tensor,
    factor: tl.tensor,
    SQUARED: tl.constexpr,  # beta is 0: squared error, without a factor 1/2
    BLOCK: tl.constexpr,
) -> None:
    """The loss of each row, and the gradient of pred."""
    row = tl.program_id(0).to(tl.int64)
    position = row if rows is None else tl.load(rows + row)
    # Half a step is four numbers a thread: neighbouring threads touch neighbouring bytes of 16-bit and of float32
    # rows alike. Both halves are loaded before one is stored: the compiler lets no load pass a store.
    HALF: tl.constexpr = BLOCK // 2
    total = tl.zeros([HALF], tl.float32)
    for start in range(0, channels, BLOCK):
        near = start + tl.arange(0, HALF)
        far = near + HALF
        d_near = _difference(pred + position * channels, target + row * channels, near, near < channels)
        d_far = _difference(pred + position * channels, target + row * channels, far, far < channels)
        loss_near, slope_near = _loss_and_slope(d_near, beta, inverse_beta, SQUARED)
        loss_far, slope_far = _loss_and_slope(d_far, beta, inverse_beta, SQUARED)
        total += loss_near + loss_far
        if gradient is not None:
            to = gradient + position * channels
            tl.store(to + near, (slope_near * factor).to(gradient.dtype.element_ty), mask=near < channels)
            tl.store(to + far, (slope_far * factor).to(gradient.dtype.element_ty), mask=far < channels)
    tl.store(losses + row, tl.sum(total, 0) * scale)


@triton.jit
def _difference(pred: tl.tensor, target: tl.tensor, at: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """The prediction minus the target at these channels, 0 outside of the row."""
    p = tl.load(pred + at, mask=inside, other=0.0).to(tl.float32)
    return p - tl.load(target + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _loss_and_slope(
    d: tl.tensor, beta: tl.tensor, inverse_beta: tl.tensor, SQUARED: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The loss of each difference and its gradient, which is halved for the squared error."""
    if SQUARED:
        return d * d, d
    # With g = clamp(d / beta, -1, 1) both branches are g * (d - beta / 2 * g), and g is the gradient.
    # Comparisons let NaN stay, for which tl.clamp takes a bound.
    slope = d * inverse_beta
    slope = tl.where(slope > 1.0, 1.0, slope)
    slope = tl.where(slope < -1.0, -1.0, slope)
    return slope * (d - 0.5 * beta * slope), slope


@triton.jit
def smooth_l1_backward(
    gradient: tl.tensor,  # [positions, C]
    incoming: tl.tensor,  # [M], or one number
    rows: tl.tensor,  # int64 [M], or None
    out: tl.tensor,  # like gradient
    channels: tl.tensor,
    factor: tl.tensor,
    PER_ROW: tl.constexpr,  # whether there is an incoming gradient for each row
    BLOCK: tl.constexpr,
) -> None:
    """Multiplies the stored gradient of each row by factor and by the incoming one, in float32."""
    row = tl.program_id(0).to(tl.int64)
    position = row if rows is None else tl.load(rows + row)
    by = tl.load(incoming + row if PER_ROW else incoming).to(tl.float32) * factor
    for start in range(0, channels, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < channels
        g = tl.load(gradient + position * channels + at, mask=inside).to(tl.float32)
        tl.store(out + position * channels + at, (g * by).to(out.dtype.element_ty), mask=inside)
