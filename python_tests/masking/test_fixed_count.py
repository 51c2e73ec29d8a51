"""Masks of data2vec 2.0, with an exact count: against the released code's own rows and statistics (masks_v2.npz).

The restatement with torch's draws gives the released rows bit for bit, the one with the library's own numbers gives the
compiled masks bit for bit, and both have the released distribution: how much is masked before the count is corrected,
how many positions stand alone, how long runs and how large components are, how often each position is masked.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_numbers import Stream
from scipy import ndimage

from d2v_fast.masking import (
    FixedSpanMask,
    InverseBlockMask,
    Masks,
    RandomMask,
    fixed_span_masks,
    inverse_block_masks,
    random_masks,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "masks_v2.npz")
SETTINGS = json.loads(str(GOLDEN["meta_json"]))
N = 10_000
SIGMAS = 4.5
PLANE = np.zeros((3, 3, 3), dtype=bool)  # neighbours within one mask of a stack of them
PLANE[1, 1], PLANE[1, :, 1] = True, True


def compiled(setting: str, n: int, views: int = 1) -> Masks:
    s = SETTINGS[setting]
    key = {"seed": 3, "epoch": 1, "sample_ids": np.arange(n), "views": views}
    ratio, length, adjust = s["mask_prob"], s["mask_length"], s["mask_prob_adjust"]
    if s["dims"] == 1:
        return fixed_span_masks(FixedSpanMask(ratio=ratio, length=length, adjust=adjust), [s["L"]] * n, **key)
    side = round(s["L"] ** 0.5)
    return inverse_block_masks(InverseBlockMask(ratio=ratio, block=length, adjust=adjust), (side, side), **key)


def in_python(setting: str, sample: int) -> tuple[int, np.ndarray]:
    """The compiled algorithm with its own random numbers: masked before the correction, and the mask."""
    s = SETTINGS[setting]
    size, b, inverse = s["L"], s["mask_length"], s["inverse_mask"]
    side = round(size**0.5)
    stream = Stream(3, "mask/inverse_block" if inverse else "mask/fixed_span", 1, sample, 0)
    share = 1 - s["mask_prob"] if inverse else s["mask_prob"]
    per_position = (share + s["mask_prob_adjust"]) / (b**2 if inverse else b)
    painted = np.zeros((side, side) if inverse else size, dtype=bool)
    for _ in range(int(size * per_position)):
        places = np.unravel_index(stream.below(size), painted.shape)
        painted[tuple(slice(max(0, at - b // 2), at - b // 2 + b) for at in places)] = True
    painted = painted.ravel()
    before = int(painted.sum())
    excess = before - int(size * share)
    others = np.flatnonzero(painted == (excess > 0)).tolist()
    for k in range(abs(excess)):
        pick = k + stream.below(len(others) - k)
        others[k], others[pick] = others[pick], others[k]
        painted[others[k]] = excess < 0
    return (size - before, ~painted) if inverse else (before, painted)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_restatement_gives_the_released_rows(restatement, setting):
    s = SETTINGS[setting]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(s["rows_seed"])
        options = (s["mask_prob"], s["mask_length"], s["mask_prob_adjust"])
        if s["dims"] == 1:
            rows = restatement.fixed_span_masks(s["rows"], s["L"], *options)
        else:
            rows = restatement.inverse_block_masks(s["rows"], round(s["L"] ** 0.5), *options)
    packed = GOLDEN[f"{setting}/rows_packed"]
    np.testing.assert_array_equal(rows[: len(packed)].numpy(), np.unpackbits(packed, axis=1)[:, : s["L"]])


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_compiled_masks_restated_with_the_library_s_numbers(setting):
    masks = compiled(setting, 40).mask.numpy()
    for sample, mask in enumerate(masks):
        np.testing.assert_array_equal(in_python(setting, sample)[1], mask)


@pytest.mark.parametrize("setting", SETTINGS)
def test_masked_before_the_correction(surprise, setting):
    counts = [in_python(setting, sample)[0] for sample in range(1000)]
    assert surprise(np.array(counts), values(f"{setting}/n_masked_before_correction_hist")) < SIGMAS


@pytest.mark.parametrize("setting", SETTINGS)
def test_statistics_of_the_released_code(surprise, setting):
    s = SETTINGS[setting]
    masks = compiled(setting, N).mask.numpy()
    assert (masks.sum(1) == s["n_masked"]).all()
    assert np.flatnonzero(GOLDEN[f"{setting}/n_masked_hist"]).tolist() == [s["n_masked"]]
    frequency = GOLDEN[f"{setting}/position_count"] / s["stat_rows"]
    error = np.sqrt(frequency * (1 - frequency) * (1 / N + 1 / s["stat_rows"]))
    assert np.abs((masks.mean(0) - frequency) / error).max() < SIGMAS
    for kind, marked in (("masked", masks), ("kept", ~masks)):
        if s["dims"] == 1:
            name, sizes, row = "run_length", *runs(marked)
        else:
            side = round(s["L"] ** 0.5)
            name, sizes, row = "component_size", *components(marked.reshape(-1, side, side))
        isolated = np.bincount(row[sizes == 1], minlength=N)
        assert surprise(isolated, values(f"{setting}/isolated_{kind}_hist")) < SIGMAS
        assert_same_sizes(sizes, GOLDEN[f"{setting}/{name}_{kind}_hist"].astype(np.int64))


def values(name: str) -> np.ndarray:
    """The values that a histogram counts."""
    return np.repeat(np.arange(len(GOLDEN[name])), GOLDEN[name])


def runs(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length and row of each run of ones."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return np.nonzero(edges == -1)[1] - starts, rows


def components(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of patches and row of each component of neighbours above, below, to the left and to the right."""
    labels, count = ndimage.label(marked, structure=PLANE)
    first = np.full(count + 1, len(marked))
    np.minimum.at(first, labels.ravel(), np.repeat(np.arange(len(marked)), marked[0].size))
    return np.bincount(labels.ravel(), minlength=count + 1)[1:], first[1:]


def assert_same_sizes(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The shares of runs or components of each size differ by no more than what chance explains."""
    counts = np.bincount(ours, minlength=len(theirs))
    assert len(counts) <= len(theirs) + 6  # the longest run may be a little longer by chance
    theirs = np.pad(theirs, (0, len(counts) - len(theirs)))
    a, b = counts.sum(), theirs.sum()
    pooled = (counts + theirs) / (a + b)
    # The mean of |X| of a normal X is sqrt(2 / pi) of its deviation; sizes within a mask depend on each other a little.
    expected = 0.5 * np.sqrt(2 / np.pi) * np.sqrt(pooled * (1 / a + 1 / b)).sum()
    assert 0.5 * np.abs(counts / a - theirs / b).sum() < 1.5 * expected
    # So many of them in a mask, to one percent.
    assert a / N == pytest.approx(b / 20_000, rel=0.01)


@pytest.mark.parametrize(("ratio", "width", "kept"), [(0.48, 512, 266), (0.5, 512, 256), (0.3, 7, 4), (0.99, 20, 1)])
def test_random_masks_keep_an_exact_number(ratio, width, kept):
    mask = random_masks(RandomMask(ratio=ratio), [width] * 3000, seed=1, epoch=0, sample_ids=np.arange(3000)).mask
    assert ((~mask).sum(1) == kept).all()
    share = kept / width
    error = (share * (1 - share) / 3000) ** 0.5
    assert ((~mask).double().mean(0) - share).abs().max() < SIGMAS * error  # every place alike
    both = (~mask[:, 0] & ~mask[:, -1]).double().mean()  # and every pair
    pair = share * (kept - 1) / max(1, width - 1)
    assert abs(both - pair) < SIGMAS * (pair * (1 - pair) / 3000) ** 0.5 + 1e-12


def test_counts_follow_each_sample_s_own_length():
    lengths, ids = [100, 37, 1, 0], [4, 9, 2, 7]
    spans = fixed_span_masks(FixedSpanMask(), lengths, width=120, seed=1, epoch=0, sample_ids=ids, views=3)
    tokens = random_masks(RandomMask(), lengths, width=120, seed=1, epoch=0, sample_ids=ids, views=3)
    assert spans.mask.view(4, 3, 120).sum(2).tolist() == [[50] * 3, [18] * 3, [0] * 3, [0] * 3]
    assert tokens.mask.view(4, 3, 120).sum(2).tolist() == [[48] * 3, [18] * 3, [0] * 3, [0] * 3]
    for made in (spans, tokens):
        for length, rows in zip(lengths, made.mask.view(4, 3, 120), strict=True):
            assert not rows[:, length:].any()
        alone = type(made)(made.mask[3:6, :37].contiguous(), made.mask[3:6, :37].flatten().nonzero()[:, 0])
        assert len(alone.kept) == 3 * 37 - len(alone.rows)


def test_spans_are_made_for_the_length_that_is_used():
    # A crop of a mask of the whole clip, as in the released code, would have other counts: 44 to 56 of 100 and more.
    whole = fixed_span_masks(FixedSpanMask(), [999] * 200, seed=1, epoch=0, sample_ids=np.arange(200)).mask
    used = fixed_span_masks(FixedSpanMask(), [100] * 200, seed=1, epoch=0, sample_ids=np.arange(200)).mask
    assert whole[:, :100].sum(1).unique().numel() > 10
    assert used.sum(1).unique().tolist() == [50]


def test_kept_and_masked_positions_are_the_valid_ones():
    lengths = torch.tensor([9, 30, 1])
    made = fixed_span_masks(FixedSpanMask(length=3), lengths, width=40, seed=1, epoch=0, sample_ids=[1, 2, 3], views=2)
    assert made.kept.dtype == torch.int64
    valid = (torch.arange(40) < lengths[:, None]).repeat_interleave(2, 0)
    assert torch.equal(made.kept, (valid & ~made.mask).flatten().nonzero()[:, 0])
    assert torch.equal(torch.cat([made.kept, made.rows]).sort().values, valid.flatten().nonzero()[:, 0])
    grid = inverse_block_masks(InverseBlockMask(), (14, 14), seed=1, epoch=0, sample_ids=[1, 2], views=16)
    assert torch.equal(grid.kept, (~grid.mask).flatten().nonzero()[:, 0])
    assert grid.kept.view(32, 39).shape == (32, 39)
