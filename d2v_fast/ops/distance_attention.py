"""Attention over packed sequences with a bias by distances: nothing of the size of the scores is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import _C
from d2v_fast.ops._library import compiled, differentiate, dtype_code, register, serve
from d2v_fast.ops.device import distance_attention as device


def distance_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    factors: Tensor | None,
    longest: int,
    *,
    visible: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax of the scaled products minus factor * |i - j|, times the values, within each sequence.

    The backward pass computes the scores again. Dropout is a function of a seed, which is drawn from torch's generator
    of the CPU, and of the places of the two tokens.

    Args:
        query: [S, heads, D], float32, float64, bfloat16 or float16; channels side by side.
        key: likewise.
        value: likewise.
        starts: int32 [N + 1]: sequence n is tokens starts[n] to starts[n + 1].
        positions: int64 [S]: where a token stands in its sequence; below 0 the bias to and from it is 0.
        factors: float [heads], not negative; None: all 0, no bias.
        longest: tokens of the longest sequence.
        visible: bool [S]: whether a token may be attended to; None: all.
        dropout: probability that a weight is dropped.

    Returns:
        [S, heads, D], of the dtype of the query.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other; a dropout of less than 0, or of 1 or more.
        TypeError: a dtype that is not supported.
    """
    _check(query, key, value, starts, positions, factors, visible, dropout)
    seed = torch.randint(2**62, (), dtype=torch.int64, device="cpu") if dropout else None
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    factors = query.new_zeros(query.shape[1], dtype=wide) if factors is None else factors.to(wide)
    arguments = query, key, value, starts, positions, visible, factors, longest, dropout, seed
    mixed: Tensor = _forward(*arguments)[0]
    return mixed


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    positions: Tensor,
    factors: Tensor | None,
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
    if any(x is not None and x.device != query.device for x in (key, value, starts, positions, factors, visible)):
        raise ValueError(f"everything must be on one device, that of the query ({query.device})")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")


def _forward_fake(
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
    tokens, heads, _ = query.shape
    return query.new_empty(query.shape), factors.new_empty(heads, tokens)


def _sizes(query: Tensor, starts: Tensor) -> list[int]:
    """The integers of struct DistanceAttention (csrc/cpu/kernels.h)."""
    return [starts.shape[0] - 1, *query.shape, dtype_code(query, "query")]


def _strides(*tensors: Tensor) -> list[int]:
    """From token to token and from head to head of query, key, value and the gradient."""
    strides = [stride for tensor in tensors for stride in tensor.stride()[:2]]
    return strides + [0] * (8 - len(strides))


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _check_starts(starts: Tensor, tokens: int) -> None:
    """What the kernel relies on.

    Raises:
        ValueError: the starts do not go up from 0 to the number of tokens.
    """
    if not len(starts) or int(starts[0]) or int(starts[-1]) != tokens or bool((starts.diff() < 0).any()):
        raise ValueError(f"starts must go up from 0 to {tokens}, the number of tokens, got {starts.tolist()[:8]} ...")


def _forward_cpu(
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
    out, logs = _forward_fake(query, key, value, starts, positions, visible, factors, longest, dropout, seed)
    query, key, value = map(device.side_by_side, (query, key, value))
    starts, positions, factors = starts.contiguous(), positions.contiguous(), factors.contiguous()
    visible = None if visible is None else visible.contiguous()
    _check_starts(starts, len(query))
    tensors = _addresses(query, key, value, starts, positions, visible, factors, out, logs, *[None] * 5)
    number = 0 if seed is None else int(seed)
    _C.distance_attention(
        False, tensors, _strides(query, key, value), _sizes(query, starts), number, dropout, torch.get_num_threads()
    )
    return out, logs


def _backward_fake(
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
    query_like, key_like, value_like = (query.new_empty(query.shape) for _ in range(3))
    return query_like, key_like, value_like, factors.new_empty(factors.shape)


def _backward_cpu(
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
    gradients = [query.new_empty(query.shape) for _ in range(3)]
    query, key, value, grad = map(device.side_by_side, (query, key, value, grad))
    starts, positions, factors = starts.contiguous(), positions.contiguous(), factors.contiguous()
    visible = None if visible is None else visible.contiguous()
    shares = torch.zeros(len(starts) - 1, query.shape[1], dtype=torch.float64, device="cpu")
    tensors = _addresses(query, key, value, starts, positions, visible, factors, out, logs, grad, *gradients, shares)
    number = 0 if seed is None else int(seed)
    _C.distance_attention(
        True, tensors, _strides(query, key, value, grad), _sizes(query, starts), number, dropout,
        torch.get_num_threads(),
    )  # fmt: skip
    return gradients[0], gradients[1], gradients[2], shares.sum(0).to(factors.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, starts, positions, visible, factors, ctx.longest, ctx.dropout, seed = inputs
    ctx.save_for_backward(query, key, value, starts, positions, visible, factors, *output, seed)
    ctx.mark_non_differentiable(output[1])


def _apply_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *saved, seed = ctx.saved_tensors
    of_query, of_key, of_value, of_factors = _backward(grad, *saved, ctx.longest, ctx.dropout, seed)
    return of_query, of_key, of_value, None, None, None, of_factors, None, None, None


_forward = register(
    "distance_attention(Tensor query, Tensor key, Tensor value, Tensor starts, Tensor positions, Tensor? visible, "
    "Tensor factors, SymInt longest, float dropout, Tensor? seed) -> (Tensor out, Tensor logs)",
    cpu=_forward_cpu,
    cuda=device.forward,
    fake=_forward_fake,
)
_backward = register(
    "distance_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor starts, Tensor positions, "
    "Tensor? visible, Tensor factors, Tensor out, Tensor logs, SymInt longest, float dropout, Tensor? seed) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=device.backward,
    fake=_backward_fake,
)
differentiate(_forward, _apply_backward, _save)
serve("distance_attention", cpu=compiled, cuda=device.backend)
