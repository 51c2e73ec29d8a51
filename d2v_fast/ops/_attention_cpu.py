"""Our own attention on a CPU: what the compiled kernel is given, and what it gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import _C
from d2v_fast.ops._library import dtype_code
from d2v_fast.ops.device.distance_attention import side_by_side


def wide(query: Tensor) -> torch.dtype:
    """The format of the arithmetic."""
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def empty_forward(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """What `forward` gives for the same arguments, without numbers."""
    tokens, heads = query.shape[:2]
    return query.new_empty(query.shape), query.new_empty(heads, tokens, dtype=wide(query))


def _call(
    backward: bool,
    rows: list[Tensor],
    places: tuple[Tensor, Tensor, Tensor | None],
    factors: Tensor | None,
    bias: Tensor | None,
    results: list[Tensor | None],
    group: int,
    seed: Tensor | None,
    dropout: float,
    pairs: bool,
) -> None:
    """The compiled kernel; the arguments are those of struct Attention (csrc/cpu/kernels.h).

    Args:
        backward: which of the two passes.
        rows: query, key, value, and the gradient of the result for the backward pass.
        places: starts, positions and visible.
        factors: as they are, like the bias.
        bias: see above.
        results: all pointers behind the bias, but the gradient of the result.
        group: sequences whose gradients of the bias are added up in one place.
        seed: of dropout.
        dropout: probability.
        pairs: whether bfloat16 numbers are multiplied as such.

    Raises:
        ValueError: the starts do not go up from 0 to the number of tokens.
    """
    rows = [side_by_side(x) for x in rows]
    starts, *others = (None if x is None else x.contiguous() for x in (*places, factors))
    assert starts is not None
    tokens, heads, dim = rows[0].shape
    if not len(starts) or int(starts[0]) or int(starts[-1]) != tokens or bool((starts.diff() < 0).any()):
        raise ValueError(f"starts must go up from 0 to {tokens}, the number of tokens, got {starts.tolist()[:8]} ...")
    strides = [stride for x in rows for stride in x.stride()[:2]] + [0] * (2 * (4 - len(rows)))
    if bias is None:
        strides, length = [*strides, 0, 0, 0], 0
    else:
        bias = bias if bias.stride(3) == 1 else bias.contiguous()
        strides = [*strides, bias.stride(0) if len(bias) > 1 else 0, *bias.stride()[1:3]]
        length = bias.shape[3]
    gradient = rows[3] if backward else None
    tensors = [*rows[:3], starts, *others, bias, *results[:2], gradient, *results[2:]]
    sizes = [len(starts) - 1, tokens, heads, dim, dtype_code(rows[0], "query"), length, group]
    number = 0 if seed is None else int(seed)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    _C.attention(backward, addresses, strides, sizes, pairs, number, dropout, torch.get_num_threads())


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor | None,
    bias: Tensor | None,
    longest: int,
    dropout: float,
    seed: Tensor | None,
    pairs: bool,
) -> tuple[Tensor, Tensor]:
    """The result [S, heads, D] and the logarithms of the sums of the rows [heads, S]; see `ops.fused_attention`."""
    out, logs = empty_forward(query)
    places, results = (starts, positions, visible), [out, logs, *[None] * 5]
    _call(False, [query, key, value], places, factors, bias, results, 1, seed, dropout, pairs)
    return out, logs


def empty_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor | None,
    bias: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `backward` gives for the same arguments, without numbers."""
    query_like, key_like, value_like = (query.new_empty(query.shape) for _ in range(3))
    of_factors, of_bias = (query.new_empty(0 if x is None else x.shape, dtype=wide(query)) for x in (factors, bias))
    return query_like, key_like, value_like, of_factors, of_bias


def _group(bias: Tensor | None, samples: int) -> int:
    """Sequences that share a bias add to one gradient of it in turn; up to 8 such gradients are then added up."""
    return 1 if bias is None or len(bias) == samples else max(4, -(-samples // 8))


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    visible: Tensor | None,
    factors: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    logs: Tensor,
    longest: int,
    dropout: float,
    seed: Tensor | None,
    pairs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of query, key, value, factors and bias; the last two may be empty; see `ops.fused_attention`."""
    of_query, of_key, of_value, of_factors, of_bias = empty_backward(
        grad, query, key, value, starts, positions, visible, factors, bias
    )
    samples, heads = len(starts) - 1, query.shape[1]
    shares = None if factors is None else query.new_zeros(samples, heads, dtype=torch.float64)
    group, parts = _group(bias, samples), None
    if bias is not None:
        parts = of_bias.new_zeros(-(-samples // group), *bias.shape[1:])
    places, results = (starts, positions, visible), [out, logs, of_query, of_key, of_value, shares, parts]
    _call(True, [query, key, value, grad], places, factors, bias, results, group, seed, dropout, pairs)
    if shares is not None:
        of_factors = shares.sum(0).to(of_factors.dtype)
    if bias is not None and parts is not None:
        of_bias = parts if len(bias) == len(parts) else _added_up(parts)
    return of_query, of_key, of_value, of_factors, of_bias


def _added_up(parts: Tensor) -> Tensor:
    """[G, ...] to [1, ...], in order."""
    total = parts[:1].clone() if len(parts) else parts.new_zeros(1, *parts.shape[1:])
    for part in parts[1:]:
        total += part
    return total
