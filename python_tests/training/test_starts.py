"""What a start of training says, refuses, and leaves as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from d2v_fast import pretrain
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, RunStopped
from d2v_fast.training import loop
from d2v_fast.training.trainer import Data2VecTrainer


def test_other_gpus_are_not_seeded(monkeypatch):
    """`torch.manual_seed` would seed all of them, and only that of the run is put back."""
    seeds, devices = [], []

    class Device:
        def __init__(self, device):
            devices.append(device)

        __enter__ = __exit__ = lambda self, *error: None

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all GPUs are seeded"))
    with torch.random.fork_rng(devices=[]):
        loop.seed_generators(5, torch.device("cuda", 1))
        ours = torch.rand(3)
        torch.default_generator.manual_seed(5)
        assert torch.equal(ours, torch.rand(3))
    assert (seeds, devices) == ([5], [torch.device("cuda", 1)])


def test_a_model_that_does_not_fit_into_memory_is_told(make_config, make_data, tmp_path, monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(RunStopped, match=r"out of memory while the model was built: CUDA out of memory"):
        Data2VecTrainer(make_config("vision"), data=make_data("vision"), out=tmp_path / "run")


def test_a_tensor_beyond_all_addresses_is_told(make_config, make_data, tmp_path):
    base = make_config("vision")
    network = replace(base.model.transformer, ffn_dim=2**62)
    config = replace(base, model=replace(base.model, transformer=network))
    with pytest.raises(RunStopped, match="out of memory while the model was built: Storage size"):
        Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run")


def test_pretrain_by_name(make_data, tmp_path, read_lines):
    random = np.random.default_rng(0)
    source = ArraySource("vision", [random.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(20)])
    run = pretrain("vision-tiny", data=source, out=tmp_path / "run", steps=2, seed=4, loader={"batch_size": 4})
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["seed"], config["loader"]["batch_size"]) == (2, 4, 4)
    assert read_lines(run)[-1]["step"] == 2
    with pytest.raises(ConfigError, match=r"there is no preset 'vision-tini'; did you mean vision-tiny\?"):
        pretrain("vision-tini", data=source, out=tmp_path / "other")
    with pytest.raises(ConfigError, match="stepz: there is no such field; did you mean steps"):
        pretrain("vision-tiny", data=source, out=tmp_path / "other", stepz=3)
    assert not (tmp_path / "other").exists()


def test_a_format_that_the_device_lacks_is_refused_before_anything_is_written(make_config, make_data, tmp_path):
    config = make_config("vision", precision={"autocast": "float16"})
    with pytest.raises(ConfigError, match="needs CUDA"):
        Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_of_less_than_an_epoch_says_so(make_config, make_data, tmp_path, capsys):
    config = make_config("vision", steps=1, loader={"batch_size": 4, "accumulation": 1})
    Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run").fit()
    told = capsys.readouterr().err
    assert "1 steps see " in told
    assert "of the samples; an epoch has " in told
    Data2VecTrainer(make_config("vision", steps=40), data=make_data("vision"), out=tmp_path / "long").fit()
    assert "of the samples" not in capsys.readouterr().err
