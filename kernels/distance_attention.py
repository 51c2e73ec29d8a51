"""Attention over packed sequences with a bias by the distance of the tokens: nothing of the size of the scores is kept.

A program owns some queries (or keys) of one head of one sequence and goes through that sequence's keys (or queries), as
flash attention does (Dao et al., 2022). The backward pass computes the scores again from the logarithm of each row's
sum; dropped weights are drawn again from the seed and the places of the two tokens, by the function of the CPU kernel
(csrc/cpu/kernels/distance_attention.cpp). Scores, sums and products are float32. Every sum has one order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(
    query: tl.tensor,  # [S, heads, D], channels side by side, like key and value
    key: tl.tensor,
    value: tl.tensor,
    starts: tl.tensor,  # int32 [N + 1]
    positions: tl.tensor,  # int64 [S], below 0: none
    visible: tl.tensor,  # uint8 [S], or None
    factors: tl.tensor,  # float32 [heads]
    seed: tl.tensor,  # int64 [1], or None without dropout
    out: tl.tensor,  # [S, heads, D], contiguous
    logs: tl.tensor,  # float32 [heads, S]: the logarithm of each row's sum
    tokens: tl.tensor,  # S
    dim: tl.tensor,
    query_stride: tl.tensor,
    query_head: tl.tensor,
    key_stride: tl.tensor,
    key_head: tl.tensor,
    value_stride: tl.tensor,
    value_head: tl.tensor,
    scale: tl.tensor,  # 1 / sqrt(D)
    limit: tl.tensor,  # dropout * 2^32
    kept: tl.tensor,  # 1 / (1 - dropout)
    QUERIES: tl.constexpr,  # of a program
    KEYS: tl.constexpr,  # at a time
    BLOCK: tl.constexpr,  # at least D
) -> None:
    """Some queries of one head of one sequence."""
    sample, head = tl.program_id(2), tl.program_id(1)
    start, end = tl.load(starts + sample), tl.load(starts + sample + 1)
    own = start + tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    mine, channel = own < end, tl.arange(0, BLOCK)
    q = _rows(query + head * query_head, own, mine, query_stride, channel, dim)
    where_q = tl.load(positions + own, mask=mine, other=-1).to(tl.int32)
    factor = tl.load(factors + head)
    most = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, BLOCK], tl.float32)
    for first in range(start, end, KEYS):
        other = first + tl.arange(0, KEYS)
        there = other < end
        k = _rows(key + head * key_head, other, there, key_stride, channel, dim)
        where_k = tl.load(positions + other, mask=there, other=-1).to(tl.int32)
        shown = there if visible is None else tl.load(visible + other, mask=there, other=0) != 0
        scores = _scores(q, k, where_q, where_k, shown, factor, scale)
        larger = tl.maximum(most, tl.max(scores, 1))
        offset = tl.where(larger == float("-inf"), 0.0, larger)  # no key to be seen so far
        weights = tl.exp(scores - offset[:, None])
        before = tl.exp(most - offset)
        total = total * before + tl.sum(weights, 1)
        if seed is not None:
            weights *= _kept(seed, sample, head, own - start, other - start, limit, kept)
        v = _rows(value + head * value_head, other, there, value_stride, channel, dim)
        mixed = mixed * before[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = larger
    empty = total == 0.0
    mixed = mixed * tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, total))[:, None]
    to = (own.to(tl.int64) * tl.num_programs(1) + head)[:, None] * dim + channel[None, :]
    tl.store(out + to, mixed.to(out.dtype.element_ty), mask=mine[:, None] & (channel < dim)[None, :])
    log = tl.where(empty, float("inf"), tl.where(empty, 0.0, most) + tl.log(tl.where(empty, 1.0, total)))
    tl.store(logs + head.to(tl.int64) * tokens + own, log, mask=mine)


@triton.jit
def attend_backward_queries(
    query: tl.tensor,  # as in `attend`
    key: tl.tensor,
    value: tl.tensor,
    gradient: tl.tensor,  # [S, heads, D] of the result, contiguous
    starts: tl.tensor,
    positions: tl.tensor,
    visible: tl.tensor,
    factors: tl.tensor,
    seed: tl.tensor,
    logs: tl.tensor,
    means: tl.tensor,  # float32 [heads, S]: the products of the result and its gradient, summed over D
    of_query: tl.tensor,  # [S, heads, D], contiguous
    of_factors: tl.tensor,  # float32 [N, heads, programs]: shares of the factors' gradient
    tokens: tl.tensor,
    dim: tl.tensor,
    query_stride: tl.tensor,
    query_head: tl.tensor,
    key_stride: tl.tensor,
    key_head: tl.tensor,
    value_stride: tl.tensor,
    value_head: tl.tensor,
    scale: tl.tensor,
    limit: tl.tensor,
    kept: tl.tensor,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The gradient of some queries, and their share of that of the head's factor."""
    sample, head, heads = tl.program_id(2), tl.program_id(1), tl.num_programs(1)
    start, end = tl.load(starts + sample), tl.load(starts + sample + 1)
    own = start + tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    mine, channel = own < end, tl.arange(0, BLOCK)
    q = _rows(query + head * query_head, own, mine, query_stride, channel, dim)
    g = _rows(gradient + head * dim, own, mine, heads * dim, channel, dim)
    where_q = tl.load(positions + own, mask=mine, other=-1).to(tl.int32)
    log = tl.load(logs + head.to(tl.int64) * tokens + own, mask=mine, other=float("inf"))
    mean = tl.load(means + head.to(tl.int64) * tokens + own, mask=mine, other=0.0)
    factor = tl.load(factors + head)
    total = tl.zeros([QUERIES, BLOCK], tl.float32)
    share = tl.zeros([QUERIES, KEYS], tl.float32)  # summed once: a sum right behind a product may differ by lane
    for first in range(start, end, KEYS):
        other = first + tl.arange(0, KEYS)
        there = other < end
        k = _rows(key + head * key_head, other, there, key_stride, channel, dim)
        v = _rows(value + head * value_head, other, there, value_stride, channel, dim)
        where_k = tl.load(positions + other, mask=there, other=-1).to(tl.int32)
        shown = there if visible is None else tl.load(visible + other, mask=there, other=0) != 0
        weights = tl.exp(_scores(q, k, where_q, where_k, shown, factor, scale) - log[:, None])
        slopes = tl.dot(g, tl.trans(v), input_precision="ieee")
        if seed is not None:
            slopes *= _kept(seed, sample, head, own - start, other - start, limit, kept)
        slopes = weights * (slopes - mean[:, None])
        share -= slopes * _apart(where_q, where_k)
        total += tl.dot(slopes.to(k.dtype), k, input_precision="ieee")
    to = (own.to(tl.int64) * heads + head)[:, None] * dim + channel[None, :]
    tl.store(
        of_query + to, (total * scale).to(of_query.dtype.element_ty), mask=mine[:, None] & (channel < dim)[None, :]
    )
    number = (sample.to(tl.int64) * heads + head) * tl.num_programs(0) + tl.program_id(0)
    tl.store(of_factors + number, tl.sum(tl.sum(share, 1), 0))


@triton.jit
def attend_backward_keys(
    query: tl.tensor,  # as in `attend_backward_queries`
    key: tl.tensor,
    value: tl.tensor,
    gradient: tl.tensor,
    starts: tl.tensor,
    positions: tl.tensor,
    visible: tl.tensor,
    factors: tl.tensor,
    seed: tl.tensor,
    logs: tl.tensor,
    means: tl.tensor,
    of_key: tl.tensor,  # [S, heads, D], contiguous
    of_value: tl.tensor,
    tokens: tl.tensor,
    dim: tl.tensor,
    query_stride: tl.tensor,
    query_head: tl.tensor,
    key_stride: tl.tensor,
    key_head: tl.tensor,
    value_stride: tl.tensor,
    value_head: tl.tensor,
    scale: tl.tensor,
    limit: tl.tensor,
    kept: tl.tensor,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The gradients of some keys and values."""
    sample, head, heads = tl.program_id(2), tl.program_id(1), tl.num_programs(1)
    start, end = tl.load(starts + sample), tl.load(starts + sample + 1)
    own = start + tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    mine, channel = own < end, tl.arange(0, BLOCK)
    k = _rows(key + head * key_head, own, mine, key_stride, channel, dim)
    v = _rows(value + head * value_head, own, mine, value_stride, channel, dim)
    where_k = tl.load(positions + own, mask=mine, other=-1).to(tl.int32)
    shown = mine if visible is None else tl.load(visible + own, mask=mine, other=0) != 0
    factor = tl.load(factors + head)
    total_key = tl.zeros([KEYS, BLOCK], tl.float32)
    total_value = tl.zeros([KEYS, BLOCK], tl.float32)
    for first in range(start, end, QUERIES):
        other = first + tl.arange(0, QUERIES)
        there = other < end
        q = _rows(query + head * query_head, other, there, query_stride, channel, dim)
        g = _rows(gradient + head * dim, other, there, heads * dim, channel, dim)
        where_q = tl.load(positions + other, mask=there, other=-1).to(tl.int32)
        log = tl.load(logs + head.to(tl.int64) * tokens + other, mask=there, other=float("inf"))
        mean = tl.load(means + head.to(tl.int64) * tokens + other, mask=there, other=0.0)
        weights = tl.exp(_scores(q, k, where_q, where_k, shown, factor, scale) - log[:, None])
        slopes = tl.dot(g, tl.trans(v), input_precision="ieee")
        shares = weights
        if seed is not None:
            drawn = _kept(seed, sample, head, other - start, own - start, limit, kept)
            shares = weights * drawn
            slopes *= drawn
        slopes = weights * (slopes - mean[:, None])
        total_value += tl.dot(tl.trans(shares.to(g.dtype)), g, input_precision="ieee")
        total_key += tl.dot(tl.trans(slopes.to(q.dtype)), q, input_precision="ieee")
    to = (own.to(tl.int64) * heads + head)[:, None] * dim + channel[None, :]
    inside = mine[:, None] & (channel < dim)[None, :]
    tl.store(of_key + to, (total_key * scale).to(of_key.dtype.element_ty), mask=inside)
    tl.store(of_value + to, total_value.to(of_value.dtype.element_ty), mask=inside)


@triton.jit
def _rows(
    tensor: tl.tensor, token: tl.tensor, there: tl.tensor, stride: tl.tensor, channel: tl.tensor, dim: tl.tensor
) -> tl.tensor:
    """Rows of one head, 0 where there is no token or channel."""
    at = tensor + token.to(tl.int64)[:, None] * stride + channel[None, :]
    return tl.load(at, mask=there[:, None] & (channel < dim)[None, :], other=0.0)


@triton.jit
def _apart(where_q: tl.tensor, where_k: tl.tensor) -> tl.tensor:
    """The distances of queries and keys, 0 where one has no position."""
    apart = tl.abs(where_q[:, None] - where_k[None, :]).to(tl.float32)
    return tl.where((where_q >= 0)[:, None] & (where_k >= 0)[None, :], apart, 0.0)


@triton.jit
def _scores(
    q: tl.tensor,
    k: tl.tensor,
    where_q: tl.tensor,
    where_k: tl.tensor,
    shown: tl.tensor,
    factor: tl.tensor,
    scale: tl.tensor,
) -> tl.tensor:
    """Scaled products minus factor * distance, minus infinity for keys that are not shown."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale - factor * _apart(where_q, where_k)
    return tl.where(shown[None, :], scores, float("-inf"))


@triton.jit
def _mix(z: tl.tensor) -> tl.tensor:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _kept(
    seed: tl.tensor,
    sample: tl.tensor,
    head: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    limit: tl.tensor,
    kept: tl.tensor,
) -> tl.tensor:
    """0 or 1 / (1 - dropout) for each pair of tokens, counted in their sequence; see `draw` of the CPU kernel."""
    row = _mix(_mix(_mix(tl.load(seed).to(tl.uint64)) + sample.to(tl.uint64)) + head.to(tl.uint64))
    row = _mix(row + q.to(tl.uint64))
    low, high = row.to(tl.uint32), (row >> 32).to(tl.uint32)
    h = (k.to(tl.uint32)[None, :] * 0x9E3779B9 + low[:, None]) ^ high[:, None]
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    h = h ^ (h >> 16)
    return tl.where(h.to(tl.int64) >= limit, kept, 0.0)
