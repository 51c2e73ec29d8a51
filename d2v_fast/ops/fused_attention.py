"""Attention of our own over packed sequences, with distances or any bias: nothing of the scores' size is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast.ops import _attention_cpu as cpu
from d2v_fast.ops._library import Switch, compiled, differentiate, dtype_code, register, serve
from d2v_fast.ops.device import distance_attention as device
from d2v_fast.ops.distances import Distances

earlier_attention = Switch("earlier_attention")
"""Attention as it was, for the bits of a run that has begun with it: on a CPU torch attends where there are no
distances, and products of bfloat16 numbers are made in float32."""


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    factors: Tensor | None,
    longest: int,
    *,
    bias: Tensor | None = None,
    visible: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax of the scaled products minus factor * |i - j|, or plus a bias, times the values, within each sequence.

    The backward pass computes the scores again. Dropout is a function of a seed, which is drawn from torch's generator
    of the CPU, and of the places of the two tokens. Sums are in float32 (float64 for float64); where a CPU multiplies
    bfloat16 numbers, weights and slopes of that format are rounded to it for products, as torch does.

    Args:
        query: [S, heads, D], float32, float64, bfloat16 or float16; channels side by side.
        key: likewise.
        value: likewise.
        starts: int32 [N + 1]: sequence n is tokens starts[n] to starts[n + 1].
        positions: int64 [S]: where a token stands in its sequence; below 0 the bias to and from it is 0.
        factors: float [heads], not negative; None: no bias by distances.
        longest: tokens of the longest sequence.
        bias: float [1 or N, heads, L, L] instead of factors, on a CPU only: added to the scores between the first
            tokens of each sequence; L is at least `longest`.
        visible: bool [S]: whether a token may be attended to; None: all.
        dropout: probability that a weight is dropped.

    Returns:
        [S, heads, D], of the dtype of the query.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other; a dropout of less than 0, or of 1 or more; a
            bias together with factors, or on a GPU.
        TypeError: a dtype that is not supported.
    """
    _check(query, key, value, starts, positions, factors, bias, longest, visible, dropout)
    seed = torch.randint(2**62, (), dtype=torch.int64, device="cpu") if dropout else None
    factors, bias = (None if x is None else x.to(cpu.wide(query)) for x in (factors, bias))
    arguments = (
        query,
        key,
        value,
        starts,
        positions,
        visible,
        factors,
        bias,
        longest,
        dropout,
        seed,
        not earlier_attention.on,
    )
    mixed: Tensor = _forward(*arguments)[0]
    return mixed


def fused_whole(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | Distances | None, dropout: float) -> Tensor:
    """The same over whole sequences.

    Args:
        query: [N, S, heads, D].
        key: likewise.
        value: likewise.
        bias: float, broadcast to [N, heads, S, S] (on a CPU only); bool [N, 1, 1, S], which keys may be attended to; or
            distances.
        dropout: probability that a weight is dropped.

    Returns:
        [N, S, heads, D].
    """
    samples, length, heads = query.shape[:3]
    number = torch.arange(samples * length, dtype=torch.int64, device=query.device)
    starts = torch.arange(samples + 1, dtype=torch.int32, device=query.device) * length
    positions, factors, visible = number % length, None, None
    if isinstance(bias, Distances):
        positions, factors, visible, bias = positions - bias.extra, bias.factors, bias.visible, None
    elif bias is not None:
        bias = bias[(None,) * (4 - bias.dim())]
        if bias.dtype == torch.bool:
            visible, bias = bias[:, 0, 0], None
        else:
            bias = bias.expand(len(bias), heads, length, length)
    if visible is not None:
        visible = visible.expand(samples, length).flatten()
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    places = starts, positions, factors, length
    return fused_attention(q, k, v, *places, bias=bias, visible=visible, dropout=dropout).view(query.shape)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    factors: Tensor | None,
    bias: Tensor | None,
    longest: int,
    visible: Tensor | None,
    dropout: float,
) -> None:
    dtype_code(query, "query")
    if query.dim() != 3 or not query.shape == key.shape == value.shape:
        raise ValueError(
            f"query, key and value are {list(query.shape)}, {list(key.shape)} and {list(value.shape)}; they must be "
            "[S, heads, D]"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError(f"query, key and value are {query.dtype}, {key.dtype} and {value.dtype}: convert them")
    tokens = query.shape[0]
    for name, tensor, dtype, shape in (
        ("starts", starts, torch.int32, starts.shape[:1]),
        ("positions", positions, torch.int64, (tokens,)),
        ("visible", visible, torch.bool, (tokens,)),
    ):
        if tensor is not None and (tensor.dtype != dtype or tensor.shape != shape):
            raise ValueError(f"{name} must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
    if factors is not None and (factors.shape != query.shape[1:2] or not factors.is_floating_point()):
        raise ValueError(f"factors must be float [heads = {query.shape[1]}], got {factors.dtype} {list(factors.shape)}")
    if bias is not None:
        shape, samples, heads = bias.shape, starts.shape[0] - 1, query.shape[1]
        if not (bias.dim() == 4 and shape[0] in (1, samples) and shape[1] == heads and shape[2] == shape[3] >= longest):
            raise ValueError(
                f"bias must be [1 or N = {samples}, heads = {heads}, L, L] with L at least {longest}, got {list(shape)}"
            )
        if factors is not None or not bias.is_floating_point():
            raise ValueError(f"a bias must be float and stand alone, got {bias.dtype} and factors {factors}")
    if any(x is not None and x.device != query.device for x in (key, value, starts, positions, factors, bias, visible)):
        raise ValueError(f"everything must be on one device, that of the query ({query.device})")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")


def _forward_cuda(*given: Any) -> tuple[Tensor, Tensor]:
    """Takes what the operator does, see the schema below."""
    query, key, value, starts, positions, visible, factors, bias, longest, dropout, seed, _ = given
    if bias is not None:
        raise ValueError("on a GPU our own attention takes no bias but distances: use blocks or sdpa")
    factors = _some(factors, query)
    return device.forward(query, key, value, starts, positions, visible, factors, longest, dropout, seed)


def _backward_cuda(grad: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same."""
    query, key, value, starts, positions, visible, factors, _, out, logs, longest, dropout, seed, _ = given
    some = _some(factors, query)
    *gradients, of_factors = device.backward(
        grad, query, key, value, starts, positions, visible, some, out, logs, longest, dropout, seed
    )
    none = logs.new_empty(0)
    return gradients[0], gradients[1], gradients[2], none if factors is None else of_factors, none.clone()


def _some(factors: Tensor | None, query: Tensor) -> Tensor:
    """Factors for a kernel that always has some."""
    return query.new_zeros(query.shape[1], dtype=cpu.wide(query)) if factors is None else factors


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.longest, ctx.dropout, seed, ctx.pairs = inputs
    ctx.save_for_backward(*tensors, *output, seed)
    ctx.mark_non_differentiable(output[1])


def _apply_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *saved, seed = ctx.saved_tensors
    factors, bias = saved[6:8]
    *gradients, of_factors, of_bias = _backward(grad, *saved, ctx.longest, ctx.dropout, seed, ctx.pairs)
    of_factors, of_bias = (None if x is None else g for x, g in ((factors, of_factors), (bias, of_bias)))
    return *gradients, None, None, None, of_factors, of_bias, None, None, None, None


_forward = register(
    "fused_attention(Tensor query, Tensor key, Tensor value, Tensor starts, Tensor positions, Tensor? visible, "
    "Tensor? factors, Tensor? bias, SymInt longest, float dropout, Tensor? seed, bool pairs) "
    "-> (Tensor out, Tensor logs)",
    cpu=cpu.forward,
    cuda=_forward_cuda,
    fake=cpu.empty_forward,
)
_backward = register(
    "fused_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor starts, Tensor positions, "
    "Tensor? visible, Tensor? factors, Tensor? bias, Tensor out, Tensor logs, SymInt longest, float dropout, "
    "Tensor? seed, bool pairs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=cpu.backward,
    cuda=_backward_cuda,
    fake=cpu.empty_backward,
)
differentiate(_forward, _apply_backward, _save)
serve("fused_attention", cpu=compiled, cuda=device.backend)
