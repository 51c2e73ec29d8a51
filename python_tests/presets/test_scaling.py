"""`scale_to_batch`: numbers worked out by hand, and what must stay the same per sample."""

import math
from dataclasses import replace

import pytest

from d2v_fast import presets
from d2v_fast.data.config import LoaderConfig
from d2v_fast.errors import ConfigError


def test_vision_base_at_a_quarter():
    scaled = presets.scale_to_batch(presets.vision_base(), 512)
    # sqrt(1/4) of 2e-3; four times as many steps; 6,250 steps of warm-up become 25,000, still 1/80 of the steps.
    assert scaled.optim.lr == pytest.approx(1e-3, rel=1e-12)
    assert scaled.steps == 2_000_000
    assert scaled.optim.warmup == 1 / 80
    assert scaled.monitor.warmup_steps == 25_000
    assert scaled.ema.anneal_steps == 0
    # 0.9998 ** 0.25 = 1 - 5.000375e-5 (binomial series: 1 - x/4 - 3/32 x^2 with x = 2e-4).
    assert 1 - scaled.ema.end == pytest.approx(5.000375e-5, rel=1e-6)
    assert scaled.ema.start == scaled.ema.end
    assert (scaled.loader.batch_size, scaled.loader.accumulation) == (256, 2)


def test_text_base_at_four_times():
    scaled = presets.scale_to_batch(presets.text_base(), 1024)
    assert scaled.optim.lr == pytest.approx(4e-4, rel=1e-12)
    assert scaled.steps == 250_000
    assert scaled.ema.anneal_steps == 75_000
    # 0.999^4 = 0.996005996001; 0.9999^4 = 0.99960005999600
    assert scaled.ema.start == pytest.approx(0.996005996001, rel=1e-12)
    assert scaled.ema.end == pytest.approx(0.999600059996, rel=1e-12)
    assert (scaled.loader.batch_size, scaled.loader.accumulation) == (128, 8)


def test_speech_counts_seconds():
    base = presets.speech_base()
    scaled = presets.scale_to_batch(base, 950, micro_batch=200)
    assert scaled.loader.batch_seconds == 190
    assert scaled.loader.accumulation == 5
    assert scaled.loader.batch_size == 95  # 237 clips in 475 s, in proportion: 94.8
    assert scaled.steps == 1_600_000
    assert scaled.ema.anneal_steps == 120_000
    assert scaled.optim.lr == pytest.approx(2.5e-4, rel=1e-12)
    assert presets.global_batch(scaled) == 950


@pytest.mark.parametrize("name", presets.NAMES)
@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 8])
def test_half_life_in_samples_is_kept(name, factor):
    config = presets.NAMES[name]()
    batch = presets.global_batch(config)
    scaled = presets.scale_to_batch(config, batch * factor)
    assert presets.global_batch(scaled) == pytest.approx(batch * factor)
    for decay, new in ((config.ema.start, scaled.ema.start), (config.ema.end, scaled.ema.end)):
        if decay == 1.0:  # the teacher stands still
            assert new == 1.0
            continue
        half_life = batch * math.log(0.5) / math.log(decay)
        assert batch * factor * math.log(0.5) / math.log(new) == pytest.approx(half_life, rel=1e-9)
    assert scaled.steps * factor == pytest.approx(config.steps, abs=factor)
    assert (scaled.model, scaled.mask, scaled.inputs) == (config.model, config.mask, config.inputs)


def test_the_same_batch_changes_nothing_but_the_split():
    base = presets.vision_base()
    assert presets.scale_to_batch(base, 2048) == base
    small = presets.scale_to_batch(base, 2048, micro_batch=40)
    assert (small.loader.batch_size, small.loader.accumulation) == (32, 64)
    assert replace(small, loader=base.loader) == base


def test_uneven_micro_batches_get_an_error_with_the_remedy():
    base = replace(presets.vision_base(), loader=LoaderConfig(batch_size=64))
    # 130 = 2 x 5 x 13: the largest equal part up to 64 is 26, less than half of 64.
    with pytest.raises(ValueError, match=r"130 samples .* of 64 .*next that fits is 26.*choose 128 or 192"):
        presets.scale_to_batch(base, 130)
    # A prime smaller than the micro-batch is one micro-batch.
    assert presets.scale_to_batch(base, 61).loader == LoaderConfig(batch_size=61, accumulation=1)


@pytest.mark.parametrize("batch", [0, -1, math.nan, math.inf])
def test_refuses_batches_that_are_none(batch):
    with pytest.raises(ValueError, match=r"batch must be positive, got"):
        presets.scale_to_batch(presets.text_base(), batch)
    with pytest.raises(ValueError, match=r"micro_batch must be positive, got"):
        presets.scale_to_batch(presets.text_base(), 64, micro_batch=batch)


def test_refuses_half_a_picture():
    with pytest.raises(ValueError, match=r"whole number, got 100\.5"):
        presets.scale_to_batch(presets.vision_base(), 100.5)
    with pytest.raises(ValueError, match=r"micro_batch must be a whole number.*0\.5"):
        presets.scale_to_batch(presets.vision_base(), 100, micro_batch=0.5)


def test_views_are_no_samples():
    base = presets.vision2_base()
    # Half the views: twice the pictures in a micro-batch, the same batch, and nothing else follows.
    fewer = presets.scale_to_batch(base, 256, views=8)
    assert (fewer.loader.batch_size, fewer.loader.accumulation) == (128, 2)
    assert replace(fewer, loader=base.loader, mask=base.mask) == base
    assert fewer.mask == replace(base.mask, views=8)
    # Another batch and other views: what follows the batch does as without them.
    both = presets.scale_to_batch(base, 512, views=32)
    assert (both.loader.batch_size, both.loader.accumulation) == (32, 16)
    assert both.optim == presets.scale_to_batch(base, 512).optim
    assert both.model.loss.class_token == base.model.loss.class_token
    assert presets.scale_to_batch(base, 256, views=16) == base
    assert presets.scale_to_batch(base, 256, views=8, micro_batch=64).loader == base.loader
    seconds = presets.scale_to_batch(presets.speech2_base(), 500, views=4)
    assert (seconds.loader.batch_seconds, seconds.loader.accumulation) == (250, 2)
    with pytest.raises(ConfigError, match=r"mask\.views is 0"):
        presets.scale_to_batch(base, 256, views=0)
