"""What holds for every mask: a pure function of (seed, epoch, sample id, view), with rows that list its ones."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v_fast.masking import (
    BlockMask,
    FixedSpanMask,
    InverseBlockMask,
    Masks,
    RandomMask,
    SpanMask,
    TokenMask,
    block_masks,
    fixed_span_masks,
    inverse_block_masks,
    random_masks,
    span_masks,
    token_masks,
)

Maker = Callable[..., Masks]  # (sample_ids, seed=, epoch=, views=): sizes and tokens of a sample follow from its id

probabilities = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


def length_maker(function, config, longest: int) -> Maker:
    def make(ids, **key):
        return function(config, [i * 7 % (longest + 1) for i in ids], width=longest, sample_ids=ids, **key)

    return make


def span_maker(config: SpanMask, longest: int) -> Maker:
    return length_maker(span_masks, config, longest)


def token_maker(config: TokenMask, longest: int) -> Maker:
    def make(ids, **key):
        tokens = torch.tensor([[(i * 31 + t) % 45 + 5 for t in range(longest)] for i in ids], dtype=torch.int64)
        lengths = torch.tensor([i * 7 % (longest + 1) for i in ids], dtype=torch.int64)
        tokens, special = tokens.view(len(ids), longest), range(5)
        return token_masks(
            config, tokens, lengths, mask_id=4, vocab_size=50, special_ids=special, sample_ids=ids, **key
        )

    return make


def grid_maker(function, config, grid: tuple[int, int]) -> Maker:
    return lambda ids, **key: function(config, grid, sample_ids=ids, **key)


@st.composite
def makers(draw: st.DrawFn) -> Maker:
    kind = draw(st.sampled_from(["span", "fixed", "random", "token", "block", "inverse"]))
    longest = draw(st.integers(0, 70))
    length, probability = draw(st.integers(1, 12)), draw(probabilities)
    grid = (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    if kind == "span":
        return span_maker(SpanMask(probability=probability, length=length, min_spans=draw(st.integers(0, 5))), longest)
    ratio = min(max(probability, 0.001), 0.999)
    if kind == "fixed":
        return length_maker(fixed_span_masks, FixedSpanMask(ratio=ratio, length=length, adjust=0.1), longest)
    if kind == "random":
        return length_maker(random_masks, RandomMask(ratio=ratio), longest)
    if kind == "token":
        keep = draw(st.floats(0.0, 0.5))
        return token_maker(TokenMask(probability=probability, length=length, keep=keep, random=0.5 - keep), longest)
    if kind == "block":
        count = int(probability * grid[0] * grid[1])
        return grid_maker(
            block_masks, BlockMask(count=count, min_area=length, min_aspect=draw(st.floats(0.01, 1))), grid
        )
    return grid_maker(inverse_block_masks, InverseBlockMask(ratio=probability, block=length, adjust=0.1), grid)


keys = st.fixed_dictionaries({"seed": st.integers(0, 2**63 - 1), "epoch": st.integers(0, 1000)})
id_lists = st.lists(st.integers(0, 2**40), max_size=6, unique=True)


def by_sample(result: Masks, samples: int) -> list[bytes]:
    """Each sample's masks (and tokens) as bytes."""
    parts = [result.mask] if result.inputs is None else [result.mask, result.inputs]
    views = [part.numpy().reshape(samples, -1) if samples else part.numpy() for part in parts]
    return [b"".join(part[b].tobytes() for part in views) for b in range(samples)]


@settings(deadline=None, max_examples=150)
@given(makers(), keys, id_lists, st.integers(1, 4))
def test_rows_list_the_true_positions(make, key, ids, views):
    result = make(ids, views=views, **key)
    assert result.mask.dtype == torch.bool
    assert result.mask.shape[0] == len(ids) * views
    assert result.rows.dtype == torch.int64
    assert torch.equal(result.rows, result.mask.flatten().nonzero()[:, 0])  # so also ascending, unique and in range
    assert (result.mask.view(torch.uint8) <= 1).all()
    valid = torch.ones_like(result.mask)
    if result.lengths is not None:
        lengths = torch.from_numpy(result.lengths).repeat_interleave(views)
        valid = torch.arange(result.mask.shape[1]) < lengths[:, None]
    assert torch.equal(result.kept, (valid & ~result.mask).flatten().nonzero()[:, 0])


@settings(deadline=None, max_examples=150)
@given(makers(), keys, id_lists, st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_mask_depends_on_its_sample_id_alone(make, key, ids, views, random):
    whole = dict(zip(ids, by_sample(make(ids, views=views, **key), len(ids)), strict=True))
    some = random.sample(ids, k=random.randint(0, len(ids)))
    assert by_sample(make(some, views=views, **key), len(some)) == [whole[i] for i in some]


@settings(deadline=None, max_examples=100)
@given(makers(), keys, id_lists, st.integers(1, 4), st.integers(1, 4))
def test_more_views_leave_the_first_ones_as_they_are(make, key, ids, fewer, more):
    few, many = make(ids, views=fewer, **key), make(ids, views=fewer + more, **key)
    assert many.mask.shape[0] == len(ids) * (fewer + more)
    for b in range(len(ids)):
        assert torch.equal(many.mask[b * (fewer + more) :][:fewer], few.mask[b * fewer :][:fewer])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 40), st.integers(0, 30), probabilities, st.integers(1, 12), keys)
def test_padding_changes_nothing(length, padding, probability, span, key):
    config = SpanMask(probability=probability, length=span)
    alone = span_masks(config, [length], sample_ids=[5], **key).mask
    padded = span_masks(config, [length], width=length + padding, sample_ids=[5], **key).mask
    assert torch.equal(padded[:, :length], alone)
    assert not padded[:, length:].any()
    assert alone.sum() < length or length == 0


FIXED = {
    "span": span_maker(SpanMask(), 249),
    "fixed": length_maker(fixed_span_masks, FixedSpanMask(), 249),
    "random": length_maker(random_masks, RandomMask(), 249),
    "block": grid_maker(block_masks, BlockMask(), (14, 14)),
    "inverse": grid_maker(inverse_block_masks, InverseBlockMask(), (14, 14)),
    "token": token_maker(TokenMask(probability=0.35, length=4), 128),
}
IDS = [i for i in range(1, 40) if i * 7 % 250 > 100 and i * 7 % 129 > 60]


@pytest.mark.parametrize("kind", FIXED)
def test_other_seeds_epochs_ids_and_views_give_other_masks(kind):
    seen = set()
    for seed in (0, 1, 2**40):
        for epoch in (0, 1):
            mask = FIXED[kind](IDS, seed=seed, epoch=epoch, views=2).mask
            seen |= {row.numpy().tobytes() for row in mask}
    assert len(seen) == 3 * 2 * 2 * len(IDS)


@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("along", ["ids", "epochs", "seeds", "views"])
def test_neighbouring_keys_give_uncorrelated_masks(kind, along):
    same_length = [14 + 250 * 129 * k for k in range(400)]
    if along == "ids":
        masks = FIXED[kind](same_length, seed=0, epoch=0).mask
    elif along == "views":
        masks = FIXED[kind]([14], seed=0, epoch=0, views=400).mask
    else:
        keys = [{"seed": 0, "epoch": k} if along == "epochs" else {"seed": k, "epoch": 0} for k in range(400)]
        masks = torch.cat([FIXED[kind]([14], **key).mask for key in keys])
    centred = masks.double() - masks.double().mean(0)
    varying = centred[:, centred.any(0)]
    assert varying.shape[1] > 90
    # Products of neighbours, averaged over the positions of a pair; the pairs are nearly independent.
    products = (varying[1:] * varying[:-1]).mean(1)
    assert abs(products.mean()) < 4.5 * products.std() / 399**0.5


@pytest.mark.parametrize("kind", FIXED)
def test_many_threads_make_the_same_masks(kind):
    def work(worker: int) -> list[bytes]:
        return [b for epoch in range(20) for b in by_sample(FIXED[kind](IDS, seed=1, epoch=epoch, views=2), len(IDS))]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("fixed", "82b7d5f23df55f1a"),
        ("random", "c691091c026f5cb0"),
        ("span", "40d144d62fa7100e"),
        ("block", "0ac324f5209f9e04"),
        ("inverse", "c9ab8a87aece46ca"),
        ("token", "bf508c70021dfe96"),
    ],
)
def test_known_masks(kind, digest):
    """The bits are part of the format: other masks for the same seed break the resumption of existing runs."""
    result = FIXED[kind](list(range(64)), seed=2024, epoch=3, views=2)
    digests = hashlib.sha256(b"".join(by_sample(result, 64)))
    assert digests.hexdigest()[:16] == digest


def test_ids_may_be_arrays_tensors_or_lists():
    made = [
        span_masks(SpanMask(), [50, 60], seed=1, epoch=0, sample_ids=ids).mask
        for ids in (
            [3, 9],
            np.array([3, 9]),
            np.array([3, 9], dtype=np.int32),
            torch.tensor([3, 9]),
            np.array([3, 0, 9])[::2],
        )
    ]
    assert all(torch.equal(mask, made[0]) for mask in made)
