"""Masks of a batch against the published algorithms in their own style: one generator and Python loops for each row.

The baseline is python_tests/masking/restatement.py, which gives the published code's masks bit for bit; it returns
masks only, ours the flat rows as well. The cases are the published settings: speech of 5 s and 15.6 s, the speech
and image clones of data2vec 2.0, the vision recipe's batch, and text in spans. A time is that of many batches in a
row, so that both sides run from warm caches, as in a loader that prepares batches ahead.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from d2v_fast.masking import (
    BlockMask,
    FixedSpanMask,
    InverseBlockMask,
    SpanMask,
    TokenMask,
    block_masks,
    fixed_span_masks,
    inverse_block_masks,
    span_masks,
    token_masks,
)

PUBLISHED = "published algorithm in Python, numpy and torch"


@pytest.fixture
def compare_batches(compare, quick):
    """compare_batches(name, ours, published, batches): that many batches in a row of each, in turn."""

    def repeated(make: Callable[[], object], batches: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(batches):
                make()

        return run

    def run(name: str, ours: Callable[[], object], published: Callable[[], object], batches: int = 20) -> None:
        batches = 1 if quick else batches
        baselines = {PUBLISHED: repeated(published, batches)}
        compare(f"{batches} x {name}", repeated(ours, batches), baselines, moved=None, rounds=10)

    return run


@pytest.fixture(scope="module")
def restatement():
    path = Path(__file__).parents[1] / "python_tests" / "masking" / "restatement.py"
    spec = importlib.util.spec_from_file_location("mask_restatement", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.benchmark(group="masks")
@pytest.mark.parametrize(
    ("samples", "views", "frames", "probability", "length"),
    [(8, 1, 249, 0.65, 10), (15, 1, 780, 0.65, 10), (8, 8, 780, 0.5, 5)],
)
def test_spans(compare_batches, restatement, samples, views, frames, probability, length):
    config, ids, lengths = SpanMask(probability=probability, length=length), np.arange(samples), [frames] * samples
    rows = range(samples * views)
    compare_batches(
        f"span masks, [{samples} x {views}, {frames}], p = {probability}, {length} frames",
        lambda: span_masks(config, lengths, seed=1, epoch=0, sample_ids=ids, views=views),
        lambda: restatement.span_masks(
            [frames] * len(rows), frames, probability, length, seed=1, epoch=0, ids=rows, equalise=True
        ),
        batches=20 if len(rows) > 8 else 100,  # of small batches more, so that the first, cold one does not weigh
    )


@pytest.mark.benchmark(group="masks")
def test_blocks(compare_batches, restatement):
    config, ids, rng = BlockMask(), np.arange(64), random.Random(1)
    compare_batches(
        "block masks, [64, 14 x 14], 120 patches",
        lambda: block_masks(config, (14, 14), seed=1, epoch=0, sample_ids=ids),
        lambda: np.stack([restatement.blocks_mask(rng, 14, 14, 120, 16, 0.3) for _ in range(64)]),
    )


@pytest.mark.benchmark(group="masks")
def test_inverse_blocks(compare_batches, restatement):
    config, ids = InverseBlockMask(), np.arange(16)
    compare_batches(
        "inverse block masks, [16 x 16, 14 x 14], 39 kept",
        lambda: inverse_block_masks(config, (14, 14), seed=1, epoch=0, sample_ids=ids, views=16),
        lambda: [restatement.inverse_block_masks(16, 14, 0.8, 3, 0.07) for _ in range(16)],
    )


@pytest.mark.benchmark(group="masks")
def test_fixed_spans(compare_batches, restatement):
    config, ids = FixedSpanMask(), np.arange(8)
    compare_batches(
        "spans of a fixed share with what is kept, [8 x 8, 780], 390 masked",
        lambda: fixed_span_masks(config, [780] * 8, seed=1, epoch=0, sample_ids=ids, views=8).kept,
        lambda: [restatement.fixed_span_masks(8, 780, 0.5, 5, 0.05) for _ in range(8)],
    )


@pytest.mark.benchmark(group="masks")
def test_tokens(compare_batches, restatement):
    config = TokenMask(probability=0.35, length=4, keep=0.0, random=0.0)
    tokens, ids = torch.randint(5, 50265, (16, 512)), np.arange(16)
    rows, candidates = tokens.numpy(), np.arange(5, 50264)

    def published():
        pairs = [
            restatement.token_mask(restatement.row_generator(1, 0, i), row, 0.35, 4, 0.0, 0.0, 50264, candidates)
            for i, row in enumerate(rows)
        ]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    compare_batches(
        "token masks, [16, 512], p = 0.35, 4 tokens",
        lambda: token_masks(
            config, tokens, mask_id=50264, vocab_size=50265, special_ids=range(5), seed=1, epoch=0, sample_ids=ids
        ),
        published,
        batches=100,
    )
