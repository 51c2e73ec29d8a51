"""An interrupted run ends with the bits of one that was never interrupted."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from d2v_fast import registry, rng
from d2v_fast.config_json import with_overrides
from d2v_fast.data import DataError
from d2v_fast.errors import RunError
from d2v_fast.run import checkpoint
from d2v_fast.training import loop
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.trainer import Data2VecTrainer

MODALITIES = [*registry.BUILT_IN, "speech2", "vision2", "text2"]
"""Those that end with a 2 are data2vec 2.0."""


class Killed(BaseException):
    """The process is gone: nothing in the product catches this."""


def die_at_call(monkeypatch, owner, name: str, call: int) -> None:
    """Let `owner.name` do its work until its `call`-th call, which raises."""
    original = getattr(owner, name)
    calls = iter(range(1, 1000))

    def wrapper(*args, **kwargs):
        if next(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)


def interrupt(monkeypatch, train, config, out, owner, name, call) -> None:
    with monkeypatch.context() as patch:
        die_at_call(patch, owner, name, call)
        with pytest.raises(Killed):
            train(config, out)


@pytest.fixture(params=MODALITIES)
def whole(request, make_config, train, tmp_path):
    """(configuration, folder) of a run that nobody interrupted: 8 steps of 2 micro-batches, over several epochs."""
    config = make_config(request.param)
    return config, train(config, tmp_path / "whole")


def test_interrupted_at_every_place(whole, train, tmp_path, monkeypatch, assert_same_run, read_weights):
    config, expected = whole
    out = tmp_path / "interrupted"
    forward, save, rename = PretrainingTask, checkpoint, os
    # In the first epoch, before there is a checkpoint: begins again.
    interrupt(monkeypatch, train, config, out, forward, "losses", 4)
    assert not (out / "checkpoints").exists()
    # While the checkpoint of step 3 is written: its second file is missing.
    interrupt(monkeypatch, train, config, out, save, "save_file", 2)
    assert [path.name for path in (out / "checkpoints").iterdir()] == [".writing_00000003"]
    # After the log line of step 4, in the middle of the accumulation of step 5: steps 4 and 5 are done again.
    interrupt(monkeypatch, train, config, out, forward, "losses", 2 * 4 + 2)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_00000003"]
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "los')  # and a line that the system wrote by half
    # The checkpoint of step 6 is whole but has not got its name yet.
    interrupt(monkeypatch, train, config, out, rename, "rename", 1)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [".writing_00000006", "step_00000003"]
    # While the oldest checkpoint is deleted, after step 8.
    interrupt(monkeypatch, train, config, out, shutil, "rmtree", 2)
    train(config, out)
    assert_same_run(expected, out, 8)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_00000006", "step_00000008"]


def test_number_of_decoding_threads_changes_no_bit(whole, train, tmp_path, assert_same_run):
    config, expected = whole
    threads = with_overrides(config, {"loader.threads": 5, "loader.prefetch": 7})
    train(threads, tmp_path / "threads")
    assert_same_run(expected, tmp_path / "threads", 8)


def test_seed_changes_the_run(make_config, train, tmp_path, read_lines):
    one = read_lines(train(make_config("vision", steps=2), tmp_path / "a"))
    other = read_lines(train(make_config("vision", steps=2, seed=1), tmp_path / "b"))
    assert one[0]["loss"] != other[0]["loss"]


def test_noise_is_another_one_in_each_micro_batch(make_config, train, tmp_path, monkeypatch):
    seeds = []
    original = loop.seed_generators
    monkeypatch.setattr(loop, "seed_generators", lambda seed, device: (seeds.append(seed), original(seed, device)))
    config = make_config("vision", steps=3)
    train(config, tmp_path / "run")
    assert seeds == [rng.derive(config.seed, "noise", step, i) for step in range(3) for i in range(2)]
    assert len(set(seeds)) == 6


def test_steps_may_grow(make_config, train, tmp_path, read_lines, capsys):
    out = tmp_path / "run"
    train(make_config("vision"), out)
    before = read_lines(out)
    train(make_config("vision"), out)
    assert "is complete: 8 of 8 steps" in capsys.readouterr().err
    train(make_config("vision", steps=12, checkpoint={"every": 5}, log={"every": 3}), out)
    after = read_lines(out)
    assert after[: len(before)] == before
    assert [line["step"] for line in after] == [2, 4, 6, 8, 9, 12]
    # The schedule is that of 12 steps: 2 of warm-up, and step 9 (the eighth after it, of 10) well before the end.
    assert after[4]["lr"] == pytest.approx(1e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 0.6)).item()))
    with pytest.raises(RunError, match=r"steps: the run has 12, this command 8 \(it may only grow\)"):
        train(make_config("vision"), out)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim": {"lr": 2e-3}}, r"optim\.lr: the run has 0\.001, this command 0\.002"),
        ({"seed": 3}, "seed: the run has 0, this command 3"),
        ({"loader": {"batch_size": 4}}, r"loader\.batch_size: the run has 3, this command 4"),
        ({"mask": {"count": 8}}, r"mask\.count: the run has 9, this command 8"),
        ({"model": {"target": {"top_k": 1}}}, r"model\.target\.top_k: the run has 2, this command 1"),
    ],
)
def test_another_configuration_is_refused(make_config, train, tmp_path, overrides, message, read_lines):
    out = tmp_path / "run"
    train(make_config("vision", steps=1), out)
    before = read_lines(out)
    with pytest.raises(RunError, match=message + ".*or start a new run in another folder"):
        train(make_config("vision", steps=1, **overrides), out)
    assert read_lines(out) == before


def test_other_data_is_refused(make_config, train, make_data, tmp_path):
    out = tmp_path / "run"
    train(make_config("vision", steps=3), out)
    (out / "index.jsonl").unlink()
    other = type(make_data("vision"))("vision", [make_data("vision").read(i)[::-1] for i in range(16)])
    with pytest.raises(RunError, match=r"the data is not what .* was trained on"):
        Data2VecTrainer(make_config("vision"), data=other, out=out).fit()


def test_the_engine_of_the_first_start_is_kept(make_config, train, tmp_path, monkeypatch):
    config = make_config("vision", steps=3)
    run = train(config, tmp_path / "run")
    newest = checkpoint.newest(run / "checkpoints")
    assert newest.state["engine"] == "native"
    newest.state["engine"] = "dali"  # as on a GPU
    monkeypatch.setattr(checkpoint, "newest", lambda *_, **__: newest)
    monkeypatch.setattr("d2v_fast.data.engines.choice._has_dali", lambda: False)
    with pytest.raises(DataError, match="dali when this run was begun"):
        train(make_config("vision", steps=4), run)


def test_a_trainer_goes_back_to_its_checkpoint_and_never_to_nothing(
    make_config, make_data, train, tmp_path, monkeypatch
):
    config = make_config("vision")
    trainer = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run")
    for call in (2 * 1 + 1, 2 * 4 + 2):  # the second time between two micro-batches: there are gradients already
        with monkeypatch.context() as patch:
            die_at_call(patch, trainer.task, "losses", call)
            with pytest.raises(Killed):
                trainer.fit()
        if call == 3:
            with pytest.raises(RunError, match="make a new one"):
                trainer.fit()
            trainer = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run")
    trainer.fit()  # the same object, at step 4 when it died, goes on after step 3
    whole = train(config, tmp_path / "whole")
    lines = [(run / "checkpoints/step_00000008/student.safetensors").read_bytes() for run in (whole, tmp_path / "run")]
    assert lines[0] == lines[1]


def test_resume_argument(make_config, make_data, tmp_path):
    out = tmp_path / "run"
    trainer = Data2VecTrainer(make_config("vision", steps=1), data=make_data("vision"), out=out)
    with pytest.raises(RunError, match="has no checkpoint to continue from"):
        trainer.fit("must")
    with pytest.raises(ValueError, match="resume must be"):
        trainer.fit("perhaps")
    assert not out.exists() or not (out / "checkpoints").exists()
    trainer.fit()
    with pytest.raises(RunError, match="already holds a run"):
        trainer.fit("never")
