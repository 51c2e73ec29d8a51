"""The mean over K normalised layers [B, T, C]: rows at a time, with the statistics of each row or of each column.

Layer norm and no norm: `row_targets`, one program per wanted row, which touches nothing but wanted rows. Instance and
batch norm: `column_statistics` reads every valid frame once, `merge_samples` joins the samples (batch norm only), and
`column_targets` normalises the wanted rows. All arithmetic is float32.

The layers are arguments, a tuple of K addresses, rather than a table in memory: they are new tensors at every step.
They have the same strides, and channels lie side by side. Row i of the result is position rows[i] of B * T, or i
without rows; positions beyond their sample's length are zero.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_targets(
    layers: tl.tensor,  # K times [B, T, C]
    rows: tl.tensor,  # int64 [M], or None
    lengths: tl.tensor,  # int64 [B], or None
    out: tl.tensor,  # float32 [M, C]
    frames: tl.tensor,
    channels: tl.tensor,
    sample_stride: tl.tensor,
    frame_stride: tl.tensor,
    eps: tl.tensor,
    LAYER_NORM: tl.constexpr,
    FINAL_NORM: tl.constexpr,  # whether the mean is layer-normalised too
    BLOCK: tl.constexpr,  # at least C: a row lives in the registers
) -> None:
    """One row: each layer normalised over its channels or not at all, the mean, and the same for it."""
    row = tl.program_id(0).to(tl.int64)
    position = row if rows is None else tl.load(rows + row)
    sample = position // frames
    frame = position - sample * frames
    at = tl.arange(0, BLOCK)
    inside = at < channels
    wanted = inside if lengths is None else inside & (frame < tl.load(lengths + sample))
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(len(layers)):
        start = _layer(layers, k) + sample * sample_stride + frame * frame_stride
        x = tl.load(start + at, mask=wanted, other=0.0).to(tl.float32)
        if LAYER_NORM:
            x = _normalise_rows(x, inside, channels, eps, 0)
        total += x
    total *= 1.0 / len(layers)
    if FINAL_NORM:
        total = _normalise_rows(total, inside, channels, eps, 0)
    tl.store(out + row * channels + at, tl.where(wanted, total, 0.0), mask=inside)


@triton.jit
def column_statistics(
    layers: tl.tensor,  # K times [B, T, C]
    lengths: tl.tensor,  # int64 [B], or None
    means: tl.tensor,  # float32 [K, B, C]
    scales: tl.tensor,  # float32 [K, B, C]: 1 / sqrt(variance + eps), or the sum of squared distances from the mean
    frames: tl.tensor,
    channels: tl.tensor,
    sample_stride: tl.tensor,
    frame_stride: tl.tensor,
    eps: tl.tensor,
    INSTANCE: tl.constexpr,  # whether each sample stands alone; otherwise merge_samples comes after
    FRAMES: tl.constexpr,  # of a tile
    BLOCK: tl.constexpr,  # channels of a tile
) -> None:
    """Mean and spread of each channel of one sample of one layer, for BLOCK channels.

    One pass: sums of the distances from the mean of the first FRAMES frames. The sum of squares cancels by a factor of
    n / FRAMES at most, because those frames themselves are part of the variance; E[x^2] - E[x]^2 has no such bound.
    """
    sample, k = tl.program_id(1), tl.program_id(2)
    layer = _layer(layers, k)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    x = layer + sample.to(tl.int64) * sample_stride + at[None, :]
    slot = tl.arange(0, FRAMES)[:, None]
    count = frames if lengths is None else tl.load(lengths + sample).to(tl.int32)
    whole = count.to(tl.float32)

    wanted = (slot < count) & inside[None, :]
    first = tl.load(x + slot.to(tl.int64) * frame_stride, mask=wanted, other=0.0).to(tl.float32)
    centre = tl.sum(first, 0) / tl.minimum(whole, FRAMES)
    distance = tl.where(wanted, first - centre[None, :], 0.0)
    sums, squares = distance, distance * distance
    for start in range(FRAMES, count, FRAMES):
        frame = start + slot
        wanted = (frame < count) & inside[None, :]
        part = tl.load(x + frame.to(tl.int64) * frame_stride, mask=wanted, other=0.0).to(tl.float32)
        distance = tl.where(wanted, part - centre[None, :], 0.0)
        sums += distance
        squares += distance * distance
    offset = tl.sum(sums, 0) / whole
    squared = tl.sum(squares, 0) - whole * offset * offset
    squared = tl.where(squared < 0.0, 0.0, squared)  # a rounding error below zero; NaN stays
    to = (k.to(tl.int64) * tl.num_programs(1) + sample) * channels + at
    tl.store(means + to, centre + offset, mask=inside)
    tl.store(scales + to, tl.rsqrt(squared / whole + eps) if INSTANCE else squared, mask=inside)


@triton.jit
def merge_samples(
    means: tl.tensor,  # float32 [K, B, C]; the merged one goes to sample 0
    scales: tl.tensor,  # float32 [K, B, C]: sums of squares in, 1 / sqrt(variance + eps) out
    lengths: tl.tensor,  # int64 [B], or None
    batch: tl.tensor,
    frames: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Batch norm: joins the statistics of the samples of one layer, for BLOCK channels (Chan, Golub and LeVeque)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    merged = tl.program_id(1).to(tl.int64) * batch * channels + at
    mean = tl.load(means + merged, mask=inside, other=0.0)
    squares = tl.load(scales + merged, mask=inside, other=0.0)
    valid = frames if lengths is None else tl.load(lengths)
    count = valid.to(tl.float32)
    here = merged
    for sample in range(1, batch):
        here += channels  # in 64 bits, which sample * channels would not be
        valid_here = frames if lengths is None else tl.load(lengths + sample)
        more = valid_here.to(tl.float32)
        step = tl.load(means + here, mask=inside, other=0.0) - mean
        share = more / (count + more)
        mean += step * share
        squares += tl.load(scales + here, mask=inside, other=0.0) + step * step * (count * share)
        count += more
    tl.store(means + merged, mean, mask=inside)
    tl.store(scales + merged, tl.rsqrt(squares / count + eps), mask=inside)


@triton.jit
def column_targets(
    layers: tl.tensor,  # K times [B, T, C]
    rows: tl.tensor,  # int64 [M], ascending, or None
    lengths: tl.tensor,  # int64 [B], or None
    means: tl.tensor,  # float32 [K, B, C]
    scales: tl.tensor,  # float32 [K, B, C]
    out: tl.tensor,  # float32 [M, C]
    count: tl.tensor,  # M
    batch: tl.tensor,
    frames: tl.tensor,
    channels: tl.tensor,
    sample_stride: tl.tensor,
    frame_stride: tl.tensor,
    eps: tl.tensor,
    INSTANCE: tl.constexpr,  # otherwise the statistics of sample 0 are everybody's
    FINAL_NORM: tl.constexpr,  # whether the mean is layer-normalised; BLOCK is then at least C
    ROWS: tl.constexpr,  # of a tile
    BLOCK: tl.constexpr,  # channels of a tile
) -> None:
    """A tile of rows, normalised by statistics that are read once for the tile.

    A tile whose rows belong to several samples is gone through once for each: its rows ascend, so that is rare.
    """
    index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = index < count
    position = index if rows is None else tl.load(rows + index, mask=there, other=0)
    sample = position // frames
    frame = position - sample * frames
    wanted = there if lengths is None else there & (frame < tl.load(lengths + sample, mask=there, other=0))
    lane = tl.arange(0, BLOCK)
    if not FINAL_NORM:
        # Four channels a thread, of 16-bit layers too: with eight, the float32 statistics beside them would come in two
        # accesses of every other half sector. (Those of whole rows pass through shared memory, and eight are right.)
        lane = tl.max_contiguous(lane, 4)
    at = tl.program_id(1) * BLOCK + lane
    inside = at < channels
    x = (sample * sample_stride + frame * frame_stride)[:, None] + at[None, :]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    last = tl.max(tl.where(there, sample, 0), 0)
    first = tl.min(tl.where(there, sample, last), 0)
    if not INSTANCE:
        first, last = first * 0, last * 0
    for of in range(first, last + 1):
        mine = (wanted & (sample == of) if INSTANCE else wanted)[:, None] & inside[None, :]
        for k in range(len(layers)):
            statistics = (k * batch + of) * channels + at
            mean = tl.load(means + statistics, mask=inside, other=0.0)
            scale = tl.load(scales + statistics, mask=inside, other=0.0)
            part = tl.load(_layer(layers, k) + x, mask=mine, other=0.0).to(tl.float32)
            total += tl.where(mine, (part - mean[None, :]) * scale[None, :], 0.0)
    total *= 1.0 / len(layers)
    if FINAL_NORM:
        total = _normalise_rows(total, inside[None, :], channels, eps, 1)
    total = tl.where(wanted[:, None], total, 0.0)
    tl.store(out + index[:, None] * channels + at[None, :], total, mask=there[:, None] & inside[None, :])


@triton.jit
def _layer(layers: tl.tensor, k: tl.tensor) -> tl.tensor:
    """The address of layer k, selected: a loop over k that is not unrolled needs far fewer registers."""
    layer = layers[0]
    for other in tl.static_range(1, len(layers)):
        layer = tl.where(k == other, layers[other], layer)
    return layer


@triton.jit
def _normalise_rows(
    x: tl.tensor, inside: tl.tensor, channels: tl.tensor, eps: tl.tensor, AXIS: tl.constexpr
) -> tl.tensor:
    """Layer norm along AXIS, biased variance in two passes over the registers; 0 outside of the C channels."""
    mean = tl.sum(x, AXIS, keep_dims=True) / channels
    distance = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(distance * distance, AXIS, keep_dims=True) / channels
    return distance * tl.rsqrt(variance + eps)
