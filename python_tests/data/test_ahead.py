"""How much a loader prepares ahead: page-locked memory on a GPU, so it is bounded where steps are large."""

from __future__ import annotations

import pytest

from d2v_fast import presets
from d2v_fast.data import LoaderConfig
from d2v_fast.data.engines.native import NativeEngine


@pytest.mark.parametrize(
    ("prefetch", "accumulation", "world", "steps"),
    [
        (2, 1, 1, 2),
        (2, 2, 1, 2),
        (20, 2, 1, 4),
        (2, 5, 1, 1),
        (2, 32, 1, 1),
        (2, 8, 4, 2),
        (20, 32, 8, 2),
        (1, 1, 1, 1),
    ],
)
def test_steps_ahead_are_bounded_by_micro_batches(prefetch, accumulation, world, steps):
    assert LoaderConfig(prefetch=prefetch, accumulation=accumulation).steps_ahead(world) == steps


def test_what_lies_in_memory_at_a_time_for_vision_base():
    config = presets.NAMES["vision-base"]()
    bytes_each = config.loader.batch_size * 3 * 224 * 224 * 4
    held = config.loader.accumulation * (1 + config.loader.steps_ahead())  # of the step in work, and ahead
    assert held == 16
    assert held * bytes_each == pytest.approx(2.47e9, rel=0.01)


def test_a_loader_begins_no_more(vision, monkeypatch):
    begun, begin = [], NativeEngine.begin
    monkeypatch.setattr(NativeEngine, "begin", lambda engine, plan: begun.append(plan) or begin(engine, plan))
    with vision(batch_size=1, accumulation=5, prefetch=4) as loader:
        assert len(begun) == 5
        loader.step(0)
        assert len(begun) == 10
        loader.step(1)
        assert len(begun) == 15
