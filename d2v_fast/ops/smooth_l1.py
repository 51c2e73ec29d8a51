"""Smooth-L1 loss of the masked positions, with its gradient taken in the forward pass."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2v_fast import _C, reference
from d2v_fast.ops._library import DTYPE_CODES, REDUCTIONS, check_rows, compiled, dtype_code, register, serve
from d2v_fast.ops.device import smooth_l1 as device


def masked_smooth_l1(
    pred: Tensor,
    target: Tensor,
    rows: Tensor | None = None,
    *,
    beta: float,
    scale: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Smooth-L1 (beta > 0) or squared error (beta = 0) of each row, summed over its channels, times `scale`.

    data2vec, section 3.4; fairseq writes the squared error as beta 0, and so without a factor 1/2. The gradient is
    taken in the forward pass and stored in the dtype of `pred`. For float16 scale, 1/M and the incoming gradient meet
    it in float32 in the backward pass, so it does not underflow. No atomics: the same bits for any number of threads.
    Once differentiable.

    Args:
        pred: [M, C], or [B, T, C] with rows; float32, bfloat16, float16 or (on the CPU) float64.
        target: [M, C], constant; its dtype may differ.
        rows: int64 [M], flat indices into B * T, ascending and unique; the positions of `pred` to compare. Values are
            checked on the CPU only.
        beta: where the quadratic part of smooth-L1 ends, finite and not negative.
        scale: multiplies every row's loss.
        reduction: "mean" (over rows; 0 with zero gradient when there is none), "sum" or "none".

    Returns:
        The loss, or [M] row losses; float64 when an input is, else float32.

    Raises:
        ValueError: shapes or devices do not fit, beta, scale or reduction is out of range, or the target requires grad.
        TypeError: a dtype is not one of the four, or rows are not int64.
        IndexError: rows are out of range, not ascending or not unique.
    """
    code = REDUCTIONS.get(reduction)
    if code is None:
        raise ValueError(f"reduction is {reduction!r}; use 'mean', 'sum' or 'none'")
    if target.requires_grad:
        raise ValueError("target requires grad, but only pred gets a gradient: pass target.detach()")
    if pred.device.type not in ("cpu", "cuda"):
        _check(pred, target, rows, beta, scale)
        return reference.masked_smooth_l1(pred, target, rows, beta=beta, scale=scale, reduction=reduction)
    if torch.is_grad_enabled() and pred.requires_grad:
        return _MaskedSmoothL1.apply(pred, target, rows, beta, scale, code)
    return _forward(pred, target, rows, beta, scale, code, False)[0]


class _MaskedSmoothL1(torch.autograd.Function):
    """Calls the registered operators only, which autocast leaves alone: no `custom_fwd` is needed."""

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int
    ) -> Tensor:
        loss, gradient = _forward(pred, target, rows, beta, scale, reduction, True)
        ctx.save_for_backward(gradient, rows)
        ctx.set_materialize_grads(False)
        ctx.options = (beta, scale, reduction)
        return loss

    @staticmethod
    def backward(ctx: Any, incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        # `once_differentiable` (a sixteenth of the time at Base) is only for a graph of the gradient.
        return _backward_with_graph(ctx, incoming) if torch.is_grad_enabled() else _backward_pass(ctx, incoming)


def _backward_pass(ctx: Any, incoming: Tensor | None) -> tuple[Tensor | None, ...]:
    if incoming is None:
        return None, None, None, None, None, None
    gradient, rows = ctx.saved_tensors
    if torch.compiler.is_compiling() or not _is_final(gradient, incoming):
        gradient = _backward(gradient, incoming, rows, *ctx.options)
    return gradient, None, None, None, None, None


_backward_with_graph = once_differentiable(_backward_pass)


def _check(pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, scale: float) -> None:
    """Everything but the values of the rows."""
    dtype_code(pred, "pred")
    dtype_code(target, "target")
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta is {beta}; it must be finite and not negative (0: squared error)")
    if not -math.inf < scale < math.inf:
        raise ValueError(f"scale is {scale}; it must be finite")
    if target.device != pred.device or (rows is not None and rows.device != pred.device):
        others = f"target on {target.device}" + ("" if rows is None else f", rows on {rows.device}")
        raise ValueError(f"pred is on {pred.device}, {others}: move them to one device")
    if rows is None:
        if pred.dim() != 2:
            raise ValueError(f"pred has shape {tuple(pred.shape)}; it must be [M, C], or [B, T, C] together with rows")
        expected = pred.shape
    else:
        if rows.dtype != torch.int64:
            raise TypeError(f"rows have dtype {rows.dtype}; they must be int64 flat indices into B * T (not a mask)")
        if pred.dim() != 3 or rows.dim() != 1:
            raise ValueError(
                f"pred has shape {tuple(pred.shape)} and rows {tuple(rows.shape)}; they must be [B, T, C] and [M]"
            )
        expected = torch.Size((rows.shape[0], pred.shape[2]))
    if target.shape != expected:
        raise ValueError(f"target has shape {tuple(target.shape)}; it must be [M, C] = {tuple(expected)}")


def _factors(dtype: torch.dtype, count: int, beta: float, scale: float, reduction: int) -> tuple[float, float]:
    """What multiplies the gradient in the forward pass, and what is left for the backward pass.

    All of it in the forward pass, so that a backward pass whose incoming gradient is 1 finds the work done; none of it
    for float16, where 1 / M would underflow: there it meets the incoming gradient (the loss scale) in float32.
    """
    factor = (scale if beta > 0 else 2 * scale) / (max(count, 1) if reduction == REDUCTIONS["mean"] else 1)
    return (1.0, factor) if dtype == torch.float16 else (factor, 1.0)


def _is_final(gradient: Tensor, incoming: Tensor) -> bool:
    """Whether the stored gradient needs no more factors; it is never written to again, so it can be handed out."""
    return (
        gradient.is_cpu
        and gradient.dtype != torch.float16
        and type(incoming) is Tensor
        and incoming.dim() == 0
        and incoming.item() == 1.0
    )


def _forward_fake(
    pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    _check(pred, target, rows, beta, scale)
    dtype = torch.float64 if torch.float64 in (pred.dtype, target.dtype) else torch.float32
    loss = pred.new_empty(target.shape[:1] if reduction == REDUCTIONS["none"] else (), dtype=dtype)
    return loss, pred.new_empty(pred.shape if with_gradient else (0,))


def _forward_cpu(
    pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    loss, gradient = _forward_fake(pred, target, rows, beta, scale, reduction, with_gradient)
    pred, target = pred.contiguous(), target.contiguous()
    count, channels = target.shape
    positions = count
    if rows is not None:
        rows, positions = rows.contiguous(), pred.shape[0] * pred.shape[1]
        check_rows(rows, positions)
    _C.smooth_l1_forward(
        pred.data_ptr(),
        target.data_ptr(),
        0 if rows is None else rows.data_ptr(),
        gradient.data_ptr() if with_gradient else 0,
        loss.data_ptr(),
        count,
        positions,
        channels,
        DTYPE_CODES[pred.dtype],
        DTYPE_CODES[target.dtype],
        reduction,
        beta,
        scale,
        _factors(pred.dtype, count, beta, scale, reduction)[0],
        torch.get_num_threads(),
    )
    return loss, gradient


def _backward_fake(
    gradient: Tensor, incoming: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int
) -> Tensor:
    return gradient.new_empty(gradient.shape)


def _backward_cpu(
    gradient: Tensor, incoming: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int
) -> Tensor:
    out = gradient.new_empty(gradient.shape)
    gradient, incoming = gradient.contiguous(), incoming.contiguous()
    channels = gradient.shape[-1]
    positions = math.prod(gradient.shape[:-1])
    count = positions
    if rows is not None:
        rows, count = rows.contiguous(), rows.shape[0]
    _C.smooth_l1_backward(
        gradient.data_ptr(),
        incoming.data_ptr(),
        0 if rows is None else rows.data_ptr(),
        out.data_ptr(),
        count,
        positions,
        channels,
        DTYPE_CODES[gradient.dtype],
        DTYPE_CODES[incoming.dtype],
        reduction == REDUCTIONS["none"],
        _factors(gradient.dtype, count, beta, scale, reduction)[1],
        torch.get_num_threads(),
    )
    return out


def _forward_gpu(
    pred: Tensor, target: Tensor, rows: Tensor | None, beta: float, scale: float, reduction: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    _check(pred, target, rows, beta, scale)
    return device.forward(pred, target, rows, beta, scale, reduction, with_gradient)


_forward = register(
    "smooth_l1_forward(Tensor pred, Tensor target, Tensor? rows, float beta, float scale, int reduction, "
    "bool with_gradient) -> (Tensor loss, Tensor gradient)",
    cpu=_forward_cpu,
    cuda=_forward_gpu,
    fake=_forward_fake,
)
_backward = register(
    "smooth_l1_backward(Tensor gradient, Tensor incoming, Tensor? rows, float beta, float scale, int reduction) "
    "-> Tensor",
    cpu=_backward_cpu,
    cuda=device.backward,
    fake=_backward_fake,
)
serve("masked_smooth_l1", cpu=compiled, cuda=device.backend)
