"""Smooth-L1 on a GPU: Triton, one warp per row; the gradient is stored unscaled and finished in the backward pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d2v_fast.kernels import launch
from d2v_fast.ops._library import REDUCTIONS, Backend
from d2v_fast.ops.device import launching, routes

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_COVERAGE = routes.Coverage(
    cuda="",
    triton="predictions and targets of 32 or 16 bits",
    torch="float64",
    why="every byte moves once and one launch does it: nothing is left for CUDA C++ to save",
)


def forward(
    pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of each row without scale and 1/M, in the dtype of `pred`; the arguments are checked.

    Args:
        pred: [M, C], or [B, T, C] with rows.
        target: [M, C].
        rows: int64 [M], or None.
        beta: where the quadratic part ends; 0 for the squared error.
        scale: multiplies every row's loss.
        reduction: a value of REDUCTIONS.
        with_gradient: whether the gradient is wanted; else an empty tensor stands for it.

    Returns:
        The loss, or [M] row losses, float32 (float64 where an input is); the gradient, of the shape of `pred`.

    Raises:
        RuntimeError: a launch failed.
        IndexError: bad rows, in debug mode.
    """
    count = target.shape[0]
    if reduction == REDUCTIONS["mean"]:
        scale /= max(count, 1)  # of each row rather than of their sum: one launch less
    with launching.on(pred.device):
        if rows is not None:
            launching.check_indices(rows, None, *pred.shape[:2])
            rows = rows.contiguous()
        gradient = (_empty(pred, rows) if with_gradient else pred.new_empty(0)).contiguous()
        if _by_triton(pred, target):
            losses = pred.new_empty(count, dtype=torch.float32)
            _forward_by_triton(pred, target, rows, beta, scale, losses, gradient if with_gradient else None)
        else:
            losses = _forward_plainly(pred, target, rows, beta, gradient if with_gradient else None) * scale
    return losses if reduction == REDUCTIONS["none"] else losses.sum(), gradient


def backward(
    gradient: Tensor, incoming: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int
) -> Tensor:
    """The stored gradient times scale, 1/M and the incoming gradient, multiplied in float32.

    Args:
        gradient: what `forward` stored.
        incoming: 0-dim, or [M] for row losses.
        rows: as in `forward`, like the other arguments.
        beta: the same.
        scale: the same.
        reduction: the same.

    Returns:
        Of the shape and dtype of `gradient`; zero where there is no row.

    Raises:
        RuntimeError: a launch failed.
    """
    count = math.prod(gradient.shape[:-1]) if rows is None else rows.shape[0]
    factor = (scale if beta > 0 else 2 * scale) / (max(count, 1) if reduction == REDUCTIONS["mean"] else 1)
    with launching.on(gradient.device):
        gradient, incoming = gradient.contiguous(), incoming.contiguous()
        rows = None if rows is None else rows.contiguous()
        out = _empty(gradient, rows)
        if not _by_triton(gradient, incoming):
            _backward_plainly(gradient, incoming, rows, factor, out)
        elif count and out.numel():
            from d2v_fast.kernels.smooth_l1 import smooth_l1_backward

            tile = launch.smooth_l1_backward_block(out.shape[-1])
            per_row = reduction == REDUCTIONS["none"]
            arguments = gradient, incoming, rows, out, gradient.shape[-1], factor, per_row, tile.channels
            launching.start(smooth_l1_backward, (count,), *arguments, warps=tile.warps)
    return out


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)


def _by_triton(one: Tensor, other: Tensor) -> bool:
    return one.dtype in _DTYPES and other.dtype in _DTYPES and routes.obstacles(one.device).triton is None


def _empty(like: Tensor, rows: Tensor | None) -> Tensor:
    """Room for a gradient; zeros where only some rows will be written."""
    return like.new_empty(like.shape) if rows is None else like.new_zeros(like.shape)


def _forward_by_triton(
    pred: Tensor,
    target: Tensor,
    rows: Tensor | None,
    beta: float,
    scale: float,
    losses: Tensor,
    gradient: Tensor | None,
) -> None:
    count, channels = target.shape
    if channels == 0:
        losses.zero_()
    if count == 0 or channels == 0:
        return
    from d2v_fast.kernels.smooth_l1 import smooth_l1_forward

    tile = launch.smooth_l1_block()
    numbers = channels, beta, launch.clamped_inverse(beta), scale, 1.0
    arguments = pred.contiguous(), target.contiguous(), rows, losses, gradient, *numbers, beta == 0, tile.channels
    launching.start(smooth_l1_forward, (count,), *arguments, warps=tile.warps)


def _forward_plainly(pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, gradient: Tensor | None) -> Tensor:
    """Row losses without scale, by the kernel's formulas; fills `gradient`."""
    dtype = torch.float64 if torch.float64 in (pred.dtype, target.dtype) else torch.float32
    if rows is not None:
        pred = pred.flatten(0, 1).index_select(0, rows)
    distance = pred.to(dtype) - target.to(dtype)
    if beta == 0:
        slope, errors = distance, distance.square()
    else:
        slope = (distance * launch.clamped_inverse(beta)).clamp(-1, 1)
        errors = slope * (distance - 0.5 * beta * slope)
    if gradient is None:
        pass
    elif rows is None:
        gradient.copy_(slope)
    else:
        gradient.flatten(0, 1).index_copy_(0, rows, slope.to(gradient.dtype))
    return errors.sum(-1)


def _backward_plainly(gradient: Tensor, incoming: Tensor, rows: Tensor | None, factor: float, out: Tensor) -> None:
    dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    by = incoming.to(dtype) * factor
    by = by[:, None] if by.dim() else by
    if rows is None:
        out.copy_(gradient.to(dtype) * by)
        return
    picked = gradient.flatten(0, 1).index_select(0, rows).to(dtype)
    out.flatten(0, 1).index_copy_(0, rows, (picked * by).to(out.dtype))
