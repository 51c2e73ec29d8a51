"""The seam between loop and task: a task without a teacher, on labels, with two losses and a loader without masks."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from d2v_fast.data import DataError
from d2v_fast.run.metrics import RATES
from d2v_fast.training.task import Task

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER))
import toy_task  # noqa: E402
from toy_task import make_toy  # noqa: E402


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(run):
    return [{k: v for k, v in line.items() if k not in RATES} for line in lines(run)]


def tensors(run, step):
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def assert_same(one, other, step):
    assert without_times(one) == without_times(other)
    first, second = tensors(one, step), tensors(other, step)
    assert first.keys() == second.keys() == {"head.safetensors", "optimizer.safetensors"}
    assert all(torch.equal(first[file][name], second[file][name]) for file in first for name in first[file])


def test_it_is_small_and_has_every_member_of_a_task():
    assert len(inspect.getsource(toy_task).splitlines()) <= 62
    members = [name for name in vars(Task) if not name.startswith("_")]
    assert [name for name in members if not hasattr(toy_task.ToyTask(), name)] == []


def test_it_learns_and_logs_each_loss(tmp_path):
    run = make_toy(tmp_path / "run", steps=90)()
    first, *_, last = lines(run)
    expected = ["step", "epoch", "loss", "loss_classes", "loss_size", "lr", "grad_norm", "skipped_samples"]
    assert list(first)[: len(expected)] == expected
    for line in lines(run):
        assert line["loss"] == pytest.approx(line["loss_classes"] + 0.1 * line["loss_size"], rel=1e-6)
    assert last["loss_classes"] < first["loss_classes"] * 0.8
    accuracy = [line["accuracy"] for line in lines(run) if "accuracy" in line]
    assert len(accuracy) == 6
    assert accuracy[-1] > 0.5  # of four classes


def test_it_continues_with_the_same_bits(tmp_path):
    parts = make_toy(tmp_path / "parts")
    losses = parts.loop.task.losses

    def interrupted(batch, step, micro_batch):
        if (step, micro_batch) == (13, 1):
            raise KeyboardInterrupt
        return losses(batch, step, micro_batch)

    parts.loop.task.losses = interrupted
    with pytest.raises(KeyboardInterrupt):
        parts()
    assert sorted(os.listdir(tmp_path / "parts" / "checkpoints")) == ["step_00000010", "step_00000013"]
    make_toy(tmp_path / "parts")("must")
    assert_same(make_toy(tmp_path / "whole")(), tmp_path / "parts", 30)


def test_it_is_killed_and_continues(tmp_path, run_python):
    code = """
        import os, signal, sys, torch
        sys.path.insert(0, {folder!r})
        from toy_task import make_toy
        torch.set_num_threads(1)
        fit = make_toy({out!r})
        losses = fit.loop.task.losses
        def die(batch, step, micro_batch):
            if (step, micro_batch) == (17, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            return losses(batch, step, micro_batch)
        fit.loop.task.losses = die
        fit()
    """.format(folder=str(FOLDER), out=str(tmp_path / "killed"))
    assert run_python(code).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path / "killed" / "checkpoints") == ["step_00000010"]
    make_toy(tmp_path / "killed")("must")
    assert_same(make_toy(tmp_path / "whole")(), tmp_path / "killed", 30)


def test_labels_that_are_missing_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task, "LABELS", torch.arange(30) % 4)
    with pytest.raises(DataError, match="there are labels for 30 samples, but the data has a sample 3"):
        make_toy(tmp_path / "run")()
