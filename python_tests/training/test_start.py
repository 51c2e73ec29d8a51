"""What a start finds in its folder: an earlier start that trained nothing, or a run in some state."""

from __future__ import annotations

import errno
import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from d2v_fast import Run, load, presets, pretrain
from d2v_fast.errors import CheckpointUnreadable, DataError, RunError
from d2v_fast.models import Data2Vec
from d2v_fast.training.trainer import Data2VecTrainer


@pytest.fixture
def folders(tmp_path):
    """Two folders of pictures."""
    random = np.random.default_rng(1)
    for name in "pq":
        (tmp_path / name).mkdir()
        for i in range(40):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / name / f"{name}{i}.png")
    return tmp_path


def fail(monkeypatch, error):
    def forward(self, *args, **options):
        raise error

    monkeypatch.setattr(Data2Vec, "forward", forward)


def test_after_a_start_that_trained_nothing_the_folder_is_free(folders, monkeypatch):
    out = folders / "run"
    with pytest.raises(DataError, match="there is nothing at"):
        pretrain("vision-tiny", data=folders / "typo", out=out, steps=900, loader={"batch_size": 64})
    with monkeypatch.context() as patch:
        fail(patch, torch.OutOfMemoryError("out of memory"))
        with pytest.raises((torch.OutOfMemoryError, RunError)):
            pretrain("vision-tiny", data=folders / "p", out=out, steps=900, loader={"batch_size": 64})
    assert (out / "index.bin").exists()
    pretrain("vision-tiny", data=folders / "q", out=out, steps=2, loader={"batch_size": 16})
    assert b"q0.png" in (out / "index.bin").read_bytes()
    with pytest.raises(DataError, match="is not what this run began with"):
        pretrain("vision-tiny", data=folders / "p", out=out, steps=2, loader={"batch_size": 16})
    assert b"q0.png" in (out / "index.bin").read_bytes()


def test_larger_steps_of_a_start_that_failed_are_taken_back(make_config, train, tmp_path, monkeypatch):
    out = train(make_config("vision", steps=2), tmp_path / "run")
    with monkeypatch.context() as patch:
        fail(patch, torch.OutOfMemoryError("out of memory"))
        with pytest.raises((torch.OutOfMemoryError, RunError)):
            train(make_config("vision", steps=900), out)
    assert Run(out).config.steps == 2
    train(make_config("vision", steps=3), out)
    assert (out / "checkpoints/step_00000003").is_dir()
    assert Run(out).config.steps == 3


def test_weights_to_begin_from_are_not_needed_again(make_config, make_data, train, tmp_path, assert_same_run):
    train(make_config("vision", steps=3), tmp_path / "one")
    for name in ("whole", "parts"):
        steps = 8 if name == "whole" else 3
        train(make_config("vision", steps=steps, seed=9), tmp_path / name, init_from=tmp_path / "one")
    shutil.rmtree(tmp_path / "one")
    train(make_config("vision", seed=9), tmp_path / "parts", init_from=tmp_path / "one")
    assert (tmp_path / "parts/checkpoints/step_00000008").is_dir()
    with pytest.raises(RunError, match="one is not a run"):
        train(make_config("vision", seed=9), tmp_path / "new", init_from=tmp_path / "one")


def test_a_run_whose_config_is_gone_keeps_its_settings(folders):
    out = folders / "run"
    for steps in (2, 3):
        pretrain("vision-tiny", data=folders / "p", out=out, steps=steps, loader={"batch_size": 16})
        anneal = Run(out).config.ema.anneal_steps
        (out / "config.json").unlink()
    assert Run(out).newest().step == 3
    assert anneal == Run(out).config.ema.anneal_steps == 2


@pytest.mark.parametrize("state", ["damaged", "gone", "unreadable"])
def test_a_run_is_never_begun_again(make_config, train, tmp_path, monkeypatch, state):
    out = train(make_config("vision"), tmp_path / "run")
    before = (out / "metrics.jsonl").read_bytes()
    folders = sorted((out / "checkpoints").iterdir())
    if state == "damaged":
        for folder in folders:
            os.truncate(folder / "student.safetensors", 100)
    if state == "gone":
        shutil.rmtree(out / "checkpoints")
    if state == "unreadable":
        real = io.open

        def broken(path, *args, **options):
            if str(path).endswith("state.json"):
                raise OSError(errno.EIO, "Input/output error")
            return real(path, *args, **options)

        monkeypatch.setattr(io, "open", broken)
    error = CheckpointUnreadable if state == "unreadable" else RunError
    for steps in (8, 12, 12):
        with pytest.raises(error, match=r"cannot continue|no checkpoint to continue it from|cannot be read just now"):
            train(make_config("vision", steps=steps), out)
    monkeypatch.undo()
    assert (out / "metrics.jsonl").read_bytes() == before
    assert sorted((out / "checkpoints").iterdir() if state != "gone" else []) == (folders if state != "gone" else [])


def test_recomputing_may_change_on_the_way_and_changes_no_bit(make_config, train, tmp_path, assert_same_run):
    """With dropout, layer drop and drop path, whose random numbers the recomputation has to meet again."""
    noisy = {"transformer": {"dropout": 0.2, "attention_dropout": 0.1, "layer_drop": 0.3, "drop_path": 0.2}}
    out = tmp_path / "parts"
    for steps, recompute in ((3, True), (5, False), (8, True)):
        train(make_config("vision", model=noisy, steps=steps, precision={"checkpoint_activations": recompute}), out)
    # The learning rate is that of each start's own length, so the parts are compared with parts.
    other = tmp_path / "others"
    for steps, recompute in ((3, False), (5, True), (8, False)):
        train(make_config("vision", model=noisy, steps=steps, precision={"checkpoint_activations": recompute}), other)
    assert_same_run(out, other, 8)


def test_a_trainer_needs_no_weights_for_a_run_that_has_its_own(make_config, make_data, train, tmp_path):
    out = train(make_config("vision", steps=3), tmp_path / "run")
    trainer = Data2VecTrainer(make_config("vision"), data=make_data("vision"), out=out, init_from=tmp_path / "gone")
    trainer.fit()
    assert (out / "checkpoints/step_00000008").is_dir()


@pytest.mark.parametrize("out", ["", "~nobody_of_this_name/run", "a\0b", "x" * 300])
def test_a_folder_that_cannot_be_one_is_named(folders, out, monkeypatch):
    monkeypatch.chdir(folders)
    for arguments in ({}, {"init_from": folders / "gone"}):
        with pytest.raises(RunError, match=r"cannot be the folder of a run"):
            pretrain("vision-tiny", data=folders / "p", out=out, steps=1, **arguments)


def test_a_run_of_no_steps_is_its_start(make_config, make_data, tmp_path, read_weights):
    """It writes the random start, and trains later as if it had not been there."""
    data, start, whole = make_data("vision"), tmp_path / "start", tmp_path / "whole"
    config = make_config("vision", steps=4)
    Data2VecTrainer(replace(config, steps=0), data=data, out=start).fit()
    assert Run(start).checkpoints() == [0]
    assert Run(start).metrics() == []
    written, drawn = load(start), load(start, network="initial")
    for name, value in drawn.state_dict().items():
        assert torch.equal(written.state_dict()[name], value), name
    Data2VecTrainer(replace(config, steps=0), data=data, out=start).fit()  # complete
    for out in (start, whole):
        Data2VecTrainer(config, data=data, out=out).fit()
    first, second = read_weights(start, 4), read_weights(whole, 4)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_steps_0_of_a_preset_leaves_what_hangs_on_steps(folders):
    out = folders / "run"
    pretrain("vision-tiny", data=folders / "p", out=out, steps=0)
    recipe = presets.vision_tiny()
    assert Run(out).config.ema == recipe.ema
    pretrain("vision-tiny", data=folders / "p", out=out, steps=2, ema={"anneal_steps": 2})
    assert Run(out).checkpoints()[-1] == 2
