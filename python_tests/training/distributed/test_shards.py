"""Sharded weights, moments and teacher: the same run as with whole ones in every process."""

from __future__ import annotations

import pytest
import rank_jobs
import torch
from rank_checks import QUIET, STEPS, about_the_same, checkpoints, close, finished

import d2v_fast
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import ConfigError

SHARD = {"shard": True}


@pytest.mark.parametrize(
    ("modality", "size", "accumulation", "options"),
    [
        ("vision", 2, 4, {}),
        ("speech", 3, 3, {}),
        ("speech", 4, 1, {"model": QUIET}),  # 3 samples in 4 pieces: one process has none, and passes all the same
        ("text2", 2, 2, {"precision": {"checkpoint_activations": True}}),
    ],
)
def test_the_gradients_of_one_process(
    together, make_config, make_data, tmp_path, modality, size, accumulation, options
):
    """With layer drop, dropout, parts that the teacher shares, and several micro-batches in a process."""
    loader = {"accumulation": accumulation, "batch_size": max(3, size)}
    config = make_config(modality, loader=loader, distributed=SHARD, **options)
    (whole,) = together(1, rank_jobs.gradients, config, make_data(modality), tmp_path / "run")
    main, *others = together(size, rank_jobs.gradients, config, make_data(modality), tmp_path / "run")
    assert {answer.kind for answer in (whole, main, *others)} == {"result"}, [one.value for one in (main, *others)]
    close(whole.value, main.value)


@pytest.mark.parametrize("autocast", ["float32", "bfloat16"])
def test_two_processes_have_the_bits_of_whole_weights(
    together, make_config, make_data, tmp_path, read_weights, autocast
):
    """A sum of two numbers has one order; without clipping the norm, whose sum has another, changes nothing."""
    answers = []
    for shard in (False, True):
        precision = {"autocast": autocast, "teacher_float32": True}
        config = make_config("vision", optim={"clip_norm": None}, precision=precision, distributed={"shard": shard})
        answers.append(together(2, rank_jobs.train, config, make_data("vision"), tmp_path / str(shard)))
        finished(answers[-1])
    assert len(answers[0][0].value) > 50
    assert answers[0][0].value == answers[1][0].value
    whole, parts = (read_weights(tmp_path / name, STEPS) for name in ("False", "True"))
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    encoder = d2v_fast.load(tmp_path / "True", "teacher")
    torch.testing.assert_close(encoder.state_dict()["blocks.0.ffn.up.weight"], parts["teacher/blocks.0.ffn.up.weight"])


def test_interrupted_and_continued_with_the_same_bits(
    together, make_config, make_data, tmp_path, assert_same_run, train, read_weights, read_lines
):
    """With clipping and a validation; a single process, which keeps everything, has the same but for rounding."""
    loader, data = {"accumulation": 4, "batch_size": 1, "holdout": 0.2}, make_data("vision")
    config = make_config("vision", loader=loader, distributed=SHARD, log={"validate_every": 4})
    one = train(config, tmp_path / "one")
    finished(together(2, rank_jobs.train, config, data, tmp_path / "whole"))
    about_the_same(one, tmp_path / "whole", read_weights, read_lines)

    out = tmp_path / "parts"
    main, other = together(2, rank_jobs.train, config, data, out, (1, "signal", 4))
    assert main.value[0] == other.value[0] == "Interrupted"
    assert checkpoints(out)[-1] == "step_00000005"
    finished(together(2, rank_jobs.train, config, data, out))
    assert_same_run(tmp_path / "whole", out, STEPS)


def test_continued_by_others_sharded_or_not(
    together, make_config, make_data, tmp_path, train, read_weights, read_lines
):
    """Any of them reads what any of them wrote."""
    data = make_data("vision")
    config = make_config("vision", loader={"accumulation": 6, "batch_size": 1}, distributed=SHARD)
    whole, out = with_overrides(config, {"distributed.shard": False}), tmp_path / "parts"
    for steps, size, changed in ((2, 2, config), (4, 3, config), (6, 1, whole), (8, 2, config)):
        finished(together(size, rank_jobs.train, with_overrides(changed, {"steps": steps}), data, out))
        one = train(with_overrides(whole, {"steps": steps}), tmp_path / "one")
    about_the_same(one, out, read_weights, read_lines)


def test_one_that_fails_and_one_that_is_killed(together, make_config, make_data, tmp_path):
    """In the middle of a pass there is no other way to tell than to leave; the checkpoint before it is what stays."""
    config, data, out = make_config("vision", distributed=SHARD), make_data("vision"), tmp_path / "run"
    main, other = together(2, rank_jobs.train, config, data, out, (1, "raise", 4))
    assert other.value[:2] == ("ValueError", "a bug")
    assert main.value[:2] == ("ProcessFailed", "process 1 of 2 failed in step 5: ValueError: a bug")
    assert "the state after step 4 could not be saved either: each process has a part of it" in main.said
    assert checkpoints(out) == ["step_00000003"]

    main, other = together(2, rank_jobs.train, config, data, out, (1, "kill", 4))
    assert other.kind == "gone"
    assert main.value[0] == "ProcessLost"
    assert "waited for the others in step 5, but one of them is gone" in main.value[1]
    assert checkpoints(out) == ["step_00000003"]
    finished(together(2, rank_jobs.train, config, data, out))


def test_a_step_that_is_not_finite_in_one_process_is_none_in_all(
    together, make_config, make_data, tmp_path, read_lines
):
    config = make_config("vision", distributed=SHARD)
    finished(together(2, rank_jobs.train, config, make_data("vision"), tmp_path / "run", (1, "not finite", 3)))
    assert read_lines(tmp_path / "run")[-1]["skipped_steps"] == 1


def test_what_does_not_work_together_is_refused_by_name(make_config):
    with pytest.raises(ConfigError, match=r"distributed\.shard and precision\.compile do not work together"):
        make_config("vision", distributed=SHARD, precision={"compile": True})
