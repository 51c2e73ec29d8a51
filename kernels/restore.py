"""Kept tokens and noise to the places of a grid: every byte of a row moves once."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def restore(
    tokens: tl.tensor,  # [K, C]
    noise: tl.tensor,  # [places - K, C]
    kept: tl.tensor,  # int64 [K], ascending
    out: tl.tensor,  # [places, C]
    places: tl.tensor,
    count: tl.tensor,  # K
    channels: tl.tensor,
    HALVINGS: tl.constexpr,  # that find a place among K: the digits of K
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Some places: the token of each, or the row of noise of its number among those that are not kept."""
    start = tl.program_id(0).to(tl.int64) * ROWS
    first = start * 0  # the first token at or behind the start, by bisection
    size = first + count
    for _ in tl.static_range(HALVINGS):
        half = size // 2
        below = (size > 0) & (tl.load(kept + first + half, mask=size > 0, other=0) < start)
        first = tl.where(below, first + half + 1, first)
        size = tl.where(below, size - half - 1, half)
    number = first + tl.arange(0, ROWS)
    near = tl.load(kept + number, mask=number < count, other=-1)  # no more of them can be here
    row = start + tl.arange(0, ROWS)
    before = tl.sum(((near[None, :] >= 0) & (near[None, :] < row[:, None])).to(tl.int64), 1) + first
    found = tl.sum((near[None, :] == row[:, None]).to(tl.int32), 1) > 0
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < places)[:, None] & (at < channels)[None, :]
    token = tl.load(tokens + before[:, None] * channels + at[None, :], mask=inside & found[:, None], other=0.0)
    other = tl.load(noise + (row - before)[:, None] * channels + at[None, :], mask=inside & ~found[:, None], other=0.0)
    tl.store(out + row[:, None] * channels + at[None, :], tl.where(found[:, None], token, other), mask=inside)
