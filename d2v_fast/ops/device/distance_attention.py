"""Attention with distances on a GPU: Triton, where nothing of the size of the scores is kept; else plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast.kernels import launch
from d2v_fast.ops._library import Backend
from d2v_fast.ops.device import launching, routes
from d2v_fast.ops.distances import Distances

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_GRID = 65535
"""Programs along the second and third axis of a grid."""

_COVERAGE = routes.Coverage(
    cuda="",
    triton="32 and 16 bits, heads of up to 128 channels",
    torch="float64 and wider heads, one sequence after the other, without dropout",
    why="torch's kernels take no bias without a tensor of the size of the scores",
)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor,
    longest: int,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The operation, with checked arguments; see `ops.distance_attention`.

    Args:
        query: [S, heads, D].
        key: the same.
        value: the same.
        starts: int32 [N + 1].
        positions: int64 [S].
        visible: bool [S], or None.
        factors: float32 [heads], float64 for float64.
        longest: tokens of the longest sequence.
        dropout: probability that a weight is dropped.
        seed: int64 [] on the CPU, or None.

    Returns:
        [S, heads, D], and the logarithms of the sums of the rows [heads, S].

    Raises:
        ValueError: dropout where only plain torch serves.
        RuntimeError: a launch failed.
    """
    tokens, heads, dim = query.shape
    out, logs = query.new_empty(query.shape), factors.new_empty(heads, tokens)
    if out.numel() == 0:
        return out, logs
    with launching.on(query.device):
        if not _by_triton(query, starts):
            return _plainly(query, key, value, starts, positions, visible, factors, dropout), logs.zero_()
        from d2v_fast.kernels.distance_attention import attend

        tile = launch.attention_tile(query.element_size(), dim)
        given, numbers = _arguments(query, key, value, starts, positions, visible, factors, dropout, seed)
        grid = (launch.cells(longest, tile.queries), heads, len(starts) - 1)
        sizes = tile.queries, tile.keys, tile.channels
        launching.start(attend, grid, *given, out, logs, *numbers, *sizes, warps=tile.warps)
    return out, logs


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor,
    out: Tensor,
    logs: Tensor,
    longest: int,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of query, key, value and factors.

    Args:
        grad: of the result.
        query: as in `forward`, like the others.
        key: the same.
        value: the same.
        starts: the same.
        positions: the same.
        visible: the same.
        factors: the same.
        out: what `forward` gave.
        logs: the same.
        longest: the same.
        dropout: the same.
        seed: the same.

    Raises:
        ValueError: dropout where only plain torch serves.
        RuntimeError: a launch failed.
    """
    _, heads, dim = query.shape
    gradients = [query.new_empty(query.shape) for _ in range(3)]
    if query.numel() == 0:
        return gradients[0], gradients[1], gradients[2], torch.zeros_like(factors)
    with launching.on(query.device):
        if not _by_triton(query, starts):
            return _plain_backward(grad, query, key, value, starts, positions, visible, factors, dropout)
        from d2v_fast.kernels import distance_attention as kernels

        grad = grad.contiguous()
        means = (out.float() * grad.float()).sum(-1).t().contiguous()
        tile = launch.attention_tile(query.element_size(), dim)
        given, numbers = _arguments(query, key, value, starts, positions, visible, factors, dropout, seed)
        samples, sizes = len(starts) - 1, (tile.queries, tile.keys, tile.channels)
        programs = launch.cells(longest, tile.queries)
        shares = logs.new_empty(samples, heads, programs)
        arguments: tuple[Any, ...] = *given[:3], grad, *given[3:], logs, means
        launching.start(
            kernels.attend_backward_queries,
            (programs, heads, samples),
            *arguments,
            gradients[0],
            shares,
            *numbers,
            *sizes,
            warps=tile.warps,
        )
        launching.start(
            kernels.attend_backward_keys,
            (launch.cells(longest, tile.keys), heads, samples),
            *arguments,
            *gradients[1:],
            *numbers,
            *sizes,
            warps=tile.warps,
        )
        of_factors = shares.sum((0, 2), dtype=torch.float64).to(factors.dtype)
    return gradients[0], gradients[1], gradients[2], of_factors


def side_by_side(x: Tensor) -> Tensor:
    """The tensor with its channels next to each other, as the kernels want them; a copy only if they are not."""
    return x if x.shape[2] == 1 or x.stride(2) == 1 else x.contiguous()


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)


def _by_triton(query: Tensor, starts: Tensor) -> bool:
    fits = query.dtype in _DTYPES and query.shape[2] <= launch.LARGEST_HEAD
    fits = fits and query.shape[1] <= _GRID and len(starts) - 1 <= _GRID
    return fits and routes.obstacles(query.device).triton is None


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor,
    dropout: float,
    seed: Tensor | None,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors and the numbers of a launch, in order."""
    rows = [side_by_side(x) for x in (query, key, value)]
    shown = None if visible is None else visible.contiguous().view(torch.uint8)
    drawn = None if seed is None else torch.full((1,), int(seed), dtype=torch.int64, device=query.device)
    strides = [stride for x in rows for stride in x.stride()[:2]]
    numbers = query.shape[0], query.shape[2], *strides, query.shape[2] ** -0.5, int(dropout * 2**32), 1 / (1 - dropout)
    return (*rows, starts.contiguous(), positions.contiguous(), shown, factors.contiguous(), drawn), numbers


def _plainly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor,
    dropout: float,
) -> Tensor:
    if dropout:
        raise ValueError("attention with distances and dropout needs Triton on a GPU: set attention_dropout to 0")
    tokens = query.shape[0]
    sample = torch.searchsorted(starts, torch.arange(tokens, dtype=starts.dtype, device=starts.device), right=True)
    apart = sample[:, None] != sample
    if visible is not None:
        apart = apart | ~visible
    bias = Distances(factors).bias(positions).masked_fill(apart, -torch.inf)
    q, k, v = (x.to(factors.dtype).transpose(0, 1) for x in (query, key, value))
    weights = (q @ k.transpose(1, 2) * query.shape[2] ** -0.5 + bias).softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(0, 1).to(query.dtype).contiguous()


def _plain_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (query, key, value, factors)]
        mixed = _plainly(leaves[0], leaves[1], leaves[2], starts, positions, visible, leaves[3], dropout)
        q, k, v, f = torch.autograd.grad(mixed, leaves, grad)
    return q, k, v, f
