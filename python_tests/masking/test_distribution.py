"""The compiled masks and the published algorithms give the same distribution: two-sample tests with fixed seeds.

Counts of masked positions, frequencies of every position, lengths of masked and unmasked runs in both directions. A
wrong rule (starts that may cross the end, area or aspect of a block drawn otherwise, squares placed off centre, ...)
moves one of them far beyond the thresholds; equal distributions stay within them for nearly every seed.
"""

import random

import numpy as np
import pytest
import torch

from d2v_fast.masking import (
    BlockMask,
    InverseBlockMask,
    SpanMask,
    TokenMask,
    block_masks,
    inverse_block_masks,
    span_masks,
    token_masks,
)

SIGMAS = 4.5


def sigmas(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference between the means of a feature [masks, features], in standard errors over the masks."""
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    seen = (ours != 0).sum(0) + (theirs != 0).sum(0) >= 20  # the normal approximation needs some
    return float((np.abs(ours.mean(0) - theirs.mean(0)) / np.maximum(error, 1e-9))[seen].max())


def run_counts(masks: np.ndarray, length: int) -> np.ndarray:
    """How often each mask [N, rows, length] has a run of each length, masked or not: [N, 2 * (length + 1)]."""
    n, rows, _ = masks.shape
    flat = masks.reshape(n * rows, length)
    cut = np.ones((n * rows, length + 1), dtype=bool)
    cut[:, 1:-1] = flat[:, 1:] != flat[:, :-1]
    row, at = np.nonzero(cut)
    starts = np.flatnonzero(at < length)
    kind = 2 * (at[starts + 1] - at[starts]) + flat[row[starts], at[starts]]
    width = 2 * (length + 1)
    return np.bincount(row[starts] // rows * width + kind, minlength=n * width).reshape(n, width)


def assert_same_distribution(
    surprise, ours: np.ndarray, theirs: np.ndarray, grid: tuple[int, int] | None = None
) -> None:
    assert ours.shape[1] == theirs.shape[1]
    assert surprise(ours.sum(1), theirs.sum(1)) < SIGMAS
    assert sigmas(ours.sum(1, keepdims=True), theirs.sum(1, keepdims=True)) < SIGMAS
    assert sigmas(ours, theirs) < SIGMAS
    height, width = grid or (1, ours.shape[1])
    ours, theirs = ours.reshape(-1, height, width), theirs.reshape(-1, height, width)
    assert sigmas(run_counts(ours, width), run_counts(theirs, width)) < SIGMAS
    if grid is not None:
        ours, theirs = ours.transpose(0, 2, 1), theirs.transpose(0, 2, 1)
        assert sigmas(run_counts(ours, height), run_counts(theirs, height)) < SIGMAS


@pytest.mark.parametrize(
    ("size", "probability", "length", "min_spans"),
    [(249, 0.65, 10, 1), (125, 0.5, 5, 1), (40, 0.3, 7, 4), (23, 0.9, 10, 1), (11, 0.65, 10, 1), (15, 0.65, 12, 3)],
)
def test_spans(restatement, surprise, size, probability, length, min_spans):
    n = 3000
    config = SpanMask(probability=probability, length=length, min_spans=min_spans)
    ours = span_masks(config, [size] * n, seed=3, epoch=1, sample_ids=np.arange(n)).mask.numpy()
    rng = np.random.default_rng(5)
    theirs = np.zeros((n, size), dtype=bool)
    for row in theirs:
        row[restatement.span_positions(rng, size, probability, length, min_spans)] = True
        if row.all():  # the published code stops here, ours keeps a random position visible
            row[rng.integers(size)] = False
    assert_same_distribution(surprise, ours, theirs)
    if length < size - length:  # a span ends one position before the end at the latest
        assert not ours[:, -1].any()
        assert ours[:, 0].any()
        assert ours[:, -2].any()


@pytest.mark.parametrize(
    ("grid", "count", "min_area", "min_aspect"),
    [
        ((14, 14), 120, 16, 0.3),
        ((14, 14), 75, 16, 0.3),
        ((8, 8), 30, 4, 0.3),
        ((6, 6), 34, 6, 0.3),
        ((6, 10), 30, 4, 0.5),
    ],
)
def test_blocks(restatement, surprise, grid, count, min_area, min_aspect):
    n = 2000
    config = BlockMask(count=count, min_area=min_area, min_aspect=min_aspect)
    ours = block_masks(config, grid, seed=3, epoch=1, sample_ids=np.arange(n)).mask.numpy()
    rng = random.Random(5)
    theirs = np.stack([restatement.blocks_mask(rng, *grid, count, min_area, min_aspect).ravel() for _ in range(n)])
    assert_same_distribution(surprise, ours, theirs.astype(bool), grid)


@pytest.mark.parametrize(
    ("side", "ratio", "block", "adjust"), [(14, 0.8, 3, 0.07), (16, 0.75, 3, 0.1), (9, 0.6, 4, 0.0), (5, 0.5, 2, 0.4)]
)
def test_inverse_blocks(restatement, surprise, side, ratio, block, adjust):
    n = 2000
    config = InverseBlockMask(ratio=ratio, block=block, adjust=adjust)
    ours = inverse_block_masks(config, (side, side), seed=3, epoch=1, sample_ids=np.arange(n)).mask.numpy()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = restatement.inverse_block_masks(n, side, ratio, block, adjust).bool().numpy()
    assert_same_distribution(surprise, ours, theirs, (side, side))


@pytest.mark.parametrize(
    ("size", "probability", "length", "keep", "replace"),
    [(128, 0.35, 4, 0.0, 0.0), (64, 0.15, 1, 0.1, 0.1), (10, 0.9, 3, 0.5, 0.2)],
)
def test_tokens(restatement, surprise, size, probability, length, keep, replace):
    n, vocabulary, special = 3000, 50, [0, 1, 2, 3, 49]
    tokens = np.random.default_rng(1).integers(4, 49, size=(n, size))
    config = TokenMask(probability=probability, length=length, keep=keep, random=replace)
    ours = token_masks(
        config,
        torch.from_numpy(tokens),
        mask_id=49,
        vocab_size=vocabulary,
        special_ids=special,
        seed=3,
        epoch=1,
        sample_ids=np.arange(n),
    )
    rng = np.random.default_rng(5)
    pairs = [
        restatement.token_mask(rng, row, probability, length, keep, replace, 49, np.arange(4, 49)) for row in tokens
    ]
    selected, masked = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    assert_same_distribution(surprise, ours.mask.numpy(), selected)
    # What the selected tokens become: 0 the mask token, 1 unchanged, 2 another; and which other.
    fates = []
    for result, chosen in ((ours.inputs.numpy(), ours.mask.numpy()), (masked, selected)):
        fates.append(np.where(result == 49, 0, np.where(result == tokens, 1, 2))[chosen])
    assert surprise(*fates) < SIGMAS
    if replace:
        others = [
            r[c & (r != 49) & (r != tokens)] for r, c in ((ours.inputs.numpy(), ours.mask.numpy()), (masked, selected))
        ]
        assert surprise(*others) < SIGMAS
