"""Plans that draw some samples more often than others."""

from __future__ import annotations

import numpy as np
import pytest
from loading import sampling_of
from plans import RATE, SPEECH, epoch_ids, lognormal

from d2v_fast.data import LoaderConfig
from d2v_fast.data.plan import Plan
from d2v_fast.modalities.vision.config import VisionInputs


def weighted_plan(sizes, weights, seed=0, inputs=SPEECH, **config):
    config = LoaderConfig(**config)
    sampling = sampling_of(inputs, 16, config)
    return Plan(np.asarray(sizes), np.arange(len(sizes)), sampling, config, seed, np.asarray(weights, float))


def test_weights_say_how_often_a_sample_comes():
    weights = np.array([1.0] * 60 + [5.0] * 20 + [0.0] * 10)
    plan = weighted_plan(np.full((90, 2), 20), weights, inputs=VisionInputs(), batch_size=9)
    expected = 90 * weights / weights.sum()
    total = np.zeros(90)
    for epoch in range(40):
        counts = np.bincount(np.concatenate(epoch_ids(plan, epoch)), minlength=90)
        assert counts.sum() == 90
        assert (np.floor(expected - 1e-9) <= counts).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()
        total += counts
    np.testing.assert_allclose(total[:60].sum() / 40, expected[:60].sum(), rtol=0.02)
    assert (total[:60] > 0).all()
    again = weighted_plan(np.full((90, 2), 20), weights, inputs=VisionInputs(), batch_size=9)
    batch = plan.batch(77)
    assert np.array_equal(again.batch(77).ids, batch.ids)
    assert np.array_equal(again.batch(77).details.boxes, batch.details.boxes)


def test_equal_weights_are_each_sample_once_in_an_epoch():
    plan = weighted_plan(np.full((12, 2), 20), np.full(12, 0.3), inputs=VisionInputs(), batch_size=3)
    for epoch in range(3):
        assert sorted(np.concatenate(epoch_ids(plan, epoch)).tolist()) == list(range(12))


@pytest.mark.parametrize("rare", ["long", "short"])
def test_a_budget_holds_when_rare_clips_are_long(rare):
    sizes = lognormal(400)
    order = np.argsort(sizes if rare == "long" else -sizes)
    weights = np.ones(400)
    weights[order[-20:]] = 30.0
    plan = weighted_plan(sizes, weights, batch_size=1000, batch_seconds=120.0, pad=True)
    assert plan.batches_per_epoch > 5
    for number in range(5 * plan.batches_per_epoch):
        windows = plan.batch(number).details.windows
        assert len(windows) * windows.max() <= 120 * RATE
    seen = np.concatenate(epoch_ids(plan, 0))
    assert np.isin(seen, order[-20:]).mean() > 0.4
