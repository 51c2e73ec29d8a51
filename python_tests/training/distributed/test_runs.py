"""Whole runs by several processes: the same as by one, interrupted in every way, and continued."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rank_jobs
from rank_checks import STEPS, about_the_same, checkpoints, finished
from rank_jobs import Broken

from d2v_fast.training.precision import LossScale

KILLS = 10


@pytest.fixture
def run(together, make_data, tmp_path):
    """run(config, name, size=2, trouble=None) -> (folder, answers)."""

    def start(config, name, size=2, trouble=None, data=None, **waiting):
        out = tmp_path / name
        data = make_data(config.model.modality) if data is None else data
        return out, together(size, rank_jobs.train, config, data, out, trouble, **waiting)

    return start


@pytest.mark.parametrize(("modality", "size"), [("vision", 2), ("speech2", 3)])
def test_a_run_is_that_of_one_process_but_for_rounding(
    make_config, train, run, tmp_path, read_weights, read_lines, modality, size
):
    config = make_config(modality, loader={"accumulation": size, "holdout": 0.2}, log={"validate_every": 4})
    whole = train(config, tmp_path / "one")
    out, answers = run(config, "several", size)
    finished(answers)
    about_the_same(whole, out, read_weights, read_lines)
    lines, before = read_lines(out), read_lines(whole)
    assert [line.get("validation_loss") for line in lines] == [
        value if value is None else pytest.approx(value, rel=1e-4)
        for value in (line.get("validation_loss") for line in before)
    ]
    assert all(0 < line["target_std"] < 5 for line in lines)
    state = json.loads(json.loads((out / "checkpoints" / f"step_{STEPS:08d}" / "state.json").read_text())["state"])
    assert state["processes"] == size


def test_interrupted_and_continued_with_the_same_bits_and_by_other_numbers(
    make_config, run, assert_same_run, read_weights, read_lines
):
    """Killed, stopped by a signal, ended by a bug: each time the same command goes on."""
    loader = {"accumulation": 6, "batch_size": 1}
    config = make_config("vision", loader=loader)
    whole, answers = run(config, "whole")
    finished(answers)

    out, (main, other) = run(config, "parts", trouble=(1, "kill", 4))
    assert other.kind == "gone"
    assert main.value[0] == "ProcessLost"
    assert "process 0 of 2 waited for the others in step 5, but one of them is gone" in main.value[1]
    assert "saved the state after step 4" in main.said
    assert checkpoints(out) == ["step_00000003", "step_00000004"]

    _, (main, other) = run(config, "parts", trouble=(1, "raise", 5))
    assert other.value[0] == "ValueError"
    assert main.value[:2] == ("ProcessFailed", "process 1 of 2 failed in step 6: ValueError: a bug")
    assert checkpoints(out)[-1] == "step_00000005"

    _, (main, other) = run(config, "parts", trouble=(1, "signal", 5))
    said = "process 1 of 2 received SIGTERM; stopped after step 6 of 8; run the same command again to continue"
    assert main.value[:2] == other.value[:2] == ("Interrupted", said)
    assert checkpoints(out)[-1] == "step_00000006"

    _, answers = run(config, "parts")
    finished(answers)
    assert_same_run(whole, out, STEPS)

    grown = make_config("vision", loader=loader, steps=10)
    _, answers = run(grown, "parts", size=3)
    finished(answers)
    assert "continuing" in answers[0].said
    assert "with 3 processes instead of 2: the same but for rounding" in answers[0].said
    _, answers = run(grown, "whole", size=1)
    finished(answers)
    about_the_same(whole, out, read_weights, read_lines, step=10)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_kills_at_random_moments(make_config, run, assert_same_run):
    """Of whichever process, as it starts, reads, computes, logs or saves: the bits are those of an undisturbed run."""
    config = make_config("vision", steps=120, checkpoint={"every": 7}, log={"every": 3})
    whole, answers = run(config, "whole", size=3)
    finished(answers)
    random, kills, runs = np.random.default_rng(5), 0, 0
    while kills < KILLS:
        early = kills % 10 == 9
        kind, most = ("kill after", 1.5) if early else ("kill within", 0.3)
        trouble = int(random.integers(3)), kind, float(random.uniform(0, most))
        # One that dies before it has met the others is waited for; torchrun would end the others at once.
        out, answers = run(config, f"run {runs}", size=3, trouble=trouble, wait=10)
        kills += answers[trouble[0]].kind == "gone"
        kinds = {answer.kind for answer in answers}
        assert kinds != {"gone"}
        if kinds == {"result"}:
            assert_same_run(whole, out, 120)
            runs += 1
    _, answers = run(config, f"run {runs}", size=3)
    finished(answers)
    assert_same_run(whole, out, 120)


def test_the_main_process_dies(make_config, run):
    """The others leave at once; what was saved before is what the run goes on from."""
    config = make_config("vision")
    out, (main, other) = run(config, "run", trouble=(0, "kill", 4))
    assert main.kind == "gone"
    assert other.value[0] == "ProcessLost"
    assert checkpoints(out) == ["step_00000003"]
    _, answers = run(config, "run")
    finished(answers)


def test_a_full_disk(make_config, run):
    config = make_config("vision")
    out, (main, other) = run(config, "run", trouble=(0, "full disk", 0))
    assert main.value[0] == "RunStopped"
    assert "the disk is full" in main.value[1]
    assert other.value[:2] == (
        "ProcessFailed",
        f"process 0 of 2 failed when it wrote the checkpoint of step 3: {main.value[1]}",
    )
    assert checkpoints(out) == []


def test_a_process_that_hangs_is_waited_for_so_long_and_no_longer(make_config, run):
    config = make_config("vision")
    out, (main, _) = run(config, "run", trouble=(1, "hang", 4), wait=5)
    assert main.value[0] == "ProcessLost"
    assert "in step 5, but they did not come within 5 s" in main.value[1]
    assert checkpoints(out)[-1] == "step_00000004"


def test_a_step_that_is_not_finite_in_one_process_is_none_in_all(make_config, train, run, read_lines):
    out, answers = run(make_config("vision"), "run", trouble=(1, "not finite", 3))
    finished(answers)
    assert read_lines(out)[-1]["skipped_steps"] == 1


def test_the_loss_scale_of_all_falls_where_the_gradients_of_one_overflow(make_config, run, read_lines):
    out, answers = run(make_config("vision"), "run", trouble=(rank_jobs.EVERYBODY, "scaled", 3))
    finished(answers)
    assert read_lines(out)[-1]["skipped_steps"] == 1
    state = json.loads(json.loads((out / "checkpoints" / f"step_{STEPS:08d}" / "state.json").read_text())["state"])
    assert state["loss_scale"] == [LossScale.FIRST / 2, STEPS - 4]


def test_a_slow_process_is_waited_for(make_config, run, assert_same_run):
    whole, answers = run(make_config("vision"), "whole")
    finished(answers)
    out, answers = run(make_config("vision"), "slow", trouble=(1, "slow", 2))
    finished(answers)
    assert_same_run(whole, out, STEPS)


def test_samples_that_cannot_be_read_are_counted_and_named_once(make_config, run, train, tmp_path, read_lines):
    config = make_config("vision", loader={"batch_size": 1, "max_skipped": 1.0}, log={"every": 1})
    out, answers = run(config, "run", data=Broken(3, 8, 11, 12))
    finished(answers)
    lines = read_lines(out)
    assert lines[-1]["skipped_samples"] == 4  # an epoch is 8 steps of 2
    named = [line for line in answers[0].said.splitlines() if "is broken" in line]
    assert sorted(named) == sorted(f"d2v-fast: skipped {i}: is broken" for i in (3, 8, 11, 12))


def test_too_many_broken_samples_of_all_processes_together(make_config, run):
    config = make_config("vision", log={"every": 1})
    out, (main, other) = run(config, "run", data=Broken(*range(6)))
    assert main.value[0] == other.value[0] == "TooManySkipped"
    assert main.value[1] == other.value[1]
    assert len(checkpoints(out)) == 1
