"""Sentences about runs, on lines written by hand. docs/healthy.md has what came of whole runs."""

from __future__ import annotations

import pytest

from d2v_fast.config import MonitorConfig
from d2v_fast.run.learning import LINES, LearningWatch

STEPS = 300


def lines(explained, losses=None, std=(1.0, 1.0), rank=(10.0, 10.0)):
    """A line every 10 steps; spread and rank go evenly from the first to the second value."""
    count = len(explained)
    losses = losses or [1.0] * count
    for i, (share, loss) in enumerate(zip(explained, losses, strict=True)):
        ends = {"target_std": std, "target_rank": rank}
        between = {name: a + (b - a) * i / max(1, count - 1) for name, (a, b) in ends.items()}
        yield {"step": 10 * (i + 1), "loss": loss, "explained": share, **between}


def told(given, **limits):
    """(step, warnings, notes) of the lines that there was something to say about."""
    watch = LearningWatch(MonitorConfig(**{"warmup_steps": 0, **limits}), STEPS)
    found = [(line["step"], *watch.read(line, line["step"])) for line in given]
    return [(step, warnings, notes) for step, warnings, notes in found if warnings or notes]


def test_a_smoothed_number_is_the_mean_of_the_last_lines():
    watch = LearningWatch(MonitorConfig(), STEPS)
    assert watch.smoothed(None) is None
    assert watch.smoothed(float("nan")) is None
    assert watch.smoothed(0.5) == 0.5
    for line in lines([0.0] * 3 + [None] + [1.0] * LINES):
        watch.read(line, line["step"])
    assert watch.smoothed(0.0) == pytest.approx(1 - 1 / LINES)
    assert watch.smoothed(0.0) == pytest.approx(1 - 1 / LINES)  # asking changes nothing


def test_a_run_that_explains_nothing_is_told_once_and_after_a_third_of_its_steps():
    ((step, (warning,), notes),) = told(lines([0.01] * 30))
    assert (step, notes) == (STEPS // 3, [])
    assert "not learning" in warning
    assert "1.0%" in warning
    assert "monitor.min_explained (5%) after 33% of the steps" in warning
    assert told(lines([0.01] * 30), warmup_steps=150)[0][0] == 150
    assert told(lines([0.01] * 30), min_explained=0.0) == []
    assert told(lines([0.01] * 9 + [0.9] * 21)) == []
    again = told(lines([0.0] * 12 + [0.9] * 6 + [-0.5] * 12))
    assert [step for step, *_ in again] == [100, 230]


def test_single_lines_and_unmeasured_ones_warn_of_nothing():
    assert told(lines([0.5, 0.5, -0.4] * 10)) == []
    assert told(lines([None] * 30)) == []


def test_a_rising_loss_is_explained_once_where_the_targets_became_richer():
    losses = [1.0] * 10 + [2.0] * 20
    ((step, warnings, (note,)),) = told(lines([0.8] * 30, losses, rank=(5.0, 20.0)))
    assert (step, warnings) == (140, [])  # the mean of 8 lines is 1.5 with the fourth of the higher ones
    assert "has risen from 1 (step 80) to 1.5" in note
    assert "effective rank is 11.7, after 8.62" in note
    assert "explain 80%" in note


def test_a_rising_loss_is_not_excused_where_it_may_be_harm():
    losses = [1.0] * 10 + [2.0] * 20
    assert told(lines([0.8] * 30, losses)) == []  # the targets are what they were
    assert told(lines([0.1] * 30, losses, rank=(5.0, 20.0))) == []  # nothing much is explained
    assert told(lines([0.8] * 30, losses, std=(1.0, 0.5), rank=(20.0, 5.0))) == []
    assert told(lines([0.8] * 30, [2.0] * 10 + [1.0] * 20, rank=(5.0, 20.0))) == []
