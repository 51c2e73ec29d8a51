"""AdamW with the moving average on a GPU: Triton, one launch for each set of formats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2v_fast.kernels import launch
from d2v_fast.ops._library import Backend
from d2v_fast.ops.device import launching, routes

_COVERAGE = routes.Coverage(
    cuda="",
    triton="contiguous float32 tensors on one device, shadows of 32 or 16 bits",
    torch="everything else",
    why="the operation is bound by memory and every byte moves once: nothing is left for CUDA C++ to save",
)


def serves(tensors: list[Tensor], formats: list[torch.dtype]) -> bool:
    """Whether there is a kernel for these tensors.

    Args:
        tensors: all of them.
        formats: the dtypes of parameters and shadows.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or torch.float64 in formats or not all(map(Tensor.is_contiguous, tensors)):
        return False
    return routes.obstacles(devices.pop()).triton is None


def update_(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    steps: list[Tensor],
    teacher: Sequence[Tensor | None],
    shadow: Sequence[Tensor | None],
    teacher_shadow: Sequence[Tensor | None],
    lr: list[float],
    weight_decay: list[float],
    beta1: float,
    beta2: float,
    eps: float,
    gradient_scale: Tensor,
    found_inf: Tensor,
    decay: Tensor,
) -> None:
    """The operation, with checked arguments that `serves` takes; see `ops.adamw_ema_`.

    Raises:
        RuntimeError: a launch failed; or a CUDA graph is captured.
    """
    device = parameters[0].device
    with launching.on(device):
        if launching.capturing():
            raise RuntimeError(
                "adamw_ema_: a CUDA graph is being captured, but addresses of gradients and learning rates are new at "
                "every step: call it outside of the graph"
            )
        torch._foreach_add_(steps, (found_inf == 0).float())
        given = list(
            zip(parameters, gradients, exp_avg, exp_avg_sq, steps, teacher, shadow, teacher_shadow, strict=True)
        )
        tensors = [
            launch.AdamwTensor(
                tuple(0 if tensor is None else tensor.data_ptr() for tensor in together),
                together[0].numel(),
                *[None if copy is None else _name(copy.dtype) for copy in together[6:]],
            )
            for together in given
        ]
        rows = np.zeros((len(tensors), 12), np.int64)
        rows[:, :8] = [tensor.starts for tensor in tensors]
        rows[:, 8:] = np.array(
            [(rate, decayed, _log(beta1), _log(beta2)) for rate, decayed in zip(lr, weight_decay, strict=True)]
        ).view(np.int64)
        table, numbers = launching.upload(rows, device), (beta1, 1 - beta1, beta2, 1 - beta2, eps)
        for group in launch.adamw_groups(tensors):
            chunks = launching.upload(np.array(group.chunks, np.int64), device)
            _start(group, table, chunks, gradient_scale, found_inf, decay, *numbers)


def _start(group: launch.AdamwGroup, table: Tensor, chunks: Tensor, *rest: object) -> None:
    import triton.language as tl

    from d2v_fast.kernels.adamw_ema import adamw_ema as kernel

    formats = [None if name is None else getattr(tl, name) for name in group[1:3]]
    options = (group.teacher, *formats, group.aligned, launch.EMA_BLOCK)
    launching.start(kernel, (len(chunks),), table, chunks, *rest, *options, warps=launch.EMA_WARPS)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _log(beta: float) -> float:
    """Of 0 too: no moment is kept then, and 0 to any power is 0."""
    return math.log(beta) if beta > 0 else -math.inf


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)
