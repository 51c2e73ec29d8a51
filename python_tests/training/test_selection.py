"""The best validation: its checkpoint stays, and a run may end when none is better."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from d2v_fast.run.checkpoint import read
from d2v_fast.run.reader import Run
from d2v_fast.training.selection import Selection
from d2v_fast.training.task import Select

sys.path.append(str(Path(__file__).parent))
from toy_task import make_toy

SCORES = {5: 0.2, 10: 0.7, 15: 0.7, 20: None, 25: 0.1, 30: 0.3}


def make(out, scores=SCORES, patience=None, **overrides):
    """A toy run with these validations, by step."""
    fit = make_toy(out, checkpoint={"every": 5, "keep": 1}, log={"every": 5, "validate_every": 5}, **overrides)
    task, last = fit.loop.task, [0]
    task.select = lambda: Select("score", True, patience)
    task.log = lambda step: last.__setitem__(0, step + 1) or {}
    losses = task.losses

    def counted(batch, step, micro_batch):
        last[0] = step + 1
        return losses(batch, step, micro_batch)

    task.losses = counted
    task.validate = lambda batches: {"score": scores[last[0]]}
    return fit


def steps(run):
    return sorted(int(name[5:]) for name in os.listdir(run / "checkpoints"))


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path):
    run = make(tmp_path / "run")()
    assert steps(run) == [10, 30]
    assert Run(run).newest().step == 30
    assert Run(run).best().step == 10  # the first of two equal ones
    assert Run(run / "checkpoints" / "step_00000030").best().step == 30  # that one was asked for
    assert read(run / "checkpoints" / "step_00000030").state["selection"] == {"value": 0.7, "step": 10, "since": 4}


def test_a_validation_between_checkpoints_makes_one(tmp_path):
    fit = make(tmp_path / "run", scores=dict.fromkeys(SCORES, 0.5) | {15: 0.9})
    fit.loop.config = fit.loop.config.__class__(
        **{**vars(fit.loop.config), "checkpoint": type(fit.loop.config.checkpoint)(every=100, keep=1)}
    )
    assert steps(fit()) == [15, 30]


def test_it_ends_early_and_stays_so(tmp_path, capsys):
    run = make(tmp_path / "run", patience=2)()
    assert steps(run) == [10, 20]
    make(tmp_path / "run", patience=2)()
    assert steps(run) == [10, 20]
    assert [line["step"] for line in Run(run).metrics()] == [5, 10, 15, 20]
    make(tmp_path / "run", patience=4)()  # patience may change
    assert steps(run) == [10, 30]
    whole = make(tmp_path / "whole", patience=4)()
    assert [line["loss"] for line in Run(run).metrics()] == [line["loss"] for line in Run(whole).metrics()]


def test_a_run_that_chooses_nothing_has_the_newest(tmp_path):
    run = make_toy(tmp_path / "run")()
    assert "selection" not in Run(run).newest().state
    assert Run(run).best().step == 30


@pytest.mark.parametrize(("largest", "best"), [(True, 2), (False, 4)])
def test_what_is_better(largest, best):
    selection = Selection(Select("x", largest))
    for step, value in enumerate([0.5, 0.9, float("nan"), 0.1, None, 0.4], start=1):
        selection.add({"x": value}, step)
    assert (selection.step, selection.since, selection.exhausted) == (best, 6 - best, False)
    again = Selection(Select("x", largest, patience=2))
    again.load_state(selection.state())
    assert again.state() == selection.state()
    assert again.exhausted
