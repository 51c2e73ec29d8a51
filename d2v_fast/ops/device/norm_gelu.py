"""Norm and GELU of rows on a GPU: Triton, one pass each way; weight and bias get their gradients from fixed shares."""

from __future__ import annotations

import torch
from torch import Tensor

from d2v_fast.kernels import launch
from d2v_fast.ops._library import Backend
from d2v_fast.ops.device import launching, routes

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
"""That the kernels serve, of x and of its parameters."""

_COVERAGE = routes.Coverage(
    cuda="",
    triton="32 and 16 bits, up to 4096 channels",
    torch="float64, more channels, and whatever a graph or autocast joins",
    why="one pass over memory each way, in the format of x, where torch's operators and casts are four and five",
)


def serves(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether there is a kernel for tensors of this kind, whose shapes fit each other."""
    fits = {x.dtype, weight.dtype, bias.dtype} <= {*FORMATS} and x.shape[-1] <= launch.LARGEST_AFFINE_ROW
    return fits and routes.obstacles(x.device).triton is None


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The operation on what `serves` takes.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        [..., C], and the mean of each row and 1 / sqrt(variance + eps), float32 [2, rows].

    Raises:
        RuntimeError: a launch failed.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    y, statistics = x.new_empty(x.shape), x.new_empty(2, rows, dtype=torch.float32)
    if rows == 0:
        return y, statistics
    from d2v_fast.kernels.norm_gelu import norm_gelu

    tile, share = launch.norm_gelu_tile(channels), launch.norm_gelu_share(rows)
    with launching.on(x.device):
        tensors = x.contiguous(), weight.contiguous(), bias.contiguous(), y, *statistics
        numbers = rows, channels, eps, share, tile.channels
        launching.start(norm_gelu, (launch.cells(rows, share),), *tensors, *numbers, warps=tile.warps)
    return y, statistics


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias.

    Args:
        grad: of the result.
        x: as in `forward`, like the others.
        weight: the same.
        bias: the same.
        statistics: what `forward` gave.

    Raises:
        RuntimeError: a launch failed.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    of_x = x.new_empty(x.shape)
    if rows == 0:
        return of_x, torch.zeros_like(weight), torch.zeros_like(bias)
    from d2v_fast.kernels.norm_gelu import norm_gelu_backward

    tile, share = launch.norm_gelu_tile(channels), launch.norm_gelu_share(rows)
    programs = launch.cells(rows, share)
    with launching.on(x.device):
        sums = statistics.new_empty(programs, 2, channels)
        tensors = x.contiguous(), weight.contiguous(), bias.contiguous(), grad.contiguous(), *statistics, of_x, sums
        numbers = rows, channels, share, tile.channels
        launching.start(norm_gelu_backward, (programs,), *tensors, *numbers, warps=tile.warps)
        of_weight, of_bias = sums.sum(0, dtype=torch.float64)
    return of_x, of_weight.to(weight.dtype), of_bias.to(bias.dtype)


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)
