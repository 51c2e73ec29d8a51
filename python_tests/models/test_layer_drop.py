"""Which blocks a step skips: a pure function of the seed, the step and the block."""

from __future__ import annotations

import math

import numpy as np

from d2v_fast import rng
from d2v_fast.models import skipped_blocks
from d2v_fast.models.config import TransformerConfig


def test_without_layer_drop_there_is_nothing_to_skip():
    assert skipped_blocks(TransformerConfig(layer_drop=0.0), 0, 3) is None


def test_the_seed_the_step_and_the_block_decide():
    config = TransformerConfig(depth=12, layer_drop=0.3)
    patterns = {(seed, step): skipped_blocks(config, seed, step) for seed in (0, 1) for step in range(20)}
    assert all(len(pattern) == 12 for pattern in patterns.values())
    assert len(set(patterns.values())) > 30
    assert patterns[1, 7] == skipped_blocks(config, 1, 7)
    deeper = TransformerConfig(depth=24, layer_drop=0.3)
    assert skipped_blocks(deeper, 1, 7)[:12] == patterns[1, 7]
    draws = rng.uniform(1, "layer drop", 7, np.arange(12), 1)[:, 0]
    assert patterns[1, 7] == tuple(bool(draw < 0.3) for draw in draws)


def test_about_the_right_share_is_skipped():
    config = TransformerConfig(depth=20, layer_drop=0.25)
    share = np.mean([skipped_blocks(config, 0, step) for step in range(500)])
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 10_000)
