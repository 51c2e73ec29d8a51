"""bfloat16 on a CPU: what "auto" chooses, and runs whose products read the copies of the weights."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import pytest
import torch

from d2v_fast.errors import ConfigError, RunStopped
from d2v_fast.ops.shadows import _kept
from d2v_fast.run.directory import read_config
from d2v_fast.training import precision
from d2v_fast.training.precision import LEAST_WIDTH, autocast, choose_format
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.trainer import Data2VecTrainer

CPU = torch.device("cpu")
PRODUCTS = sys.modules["d2v_fast.ops.linear"]  # `ops.linear` is the function


@pytest.fixture
def every_product_is_ours(monkeypatch):
    """However small; by the rules of a processor that has them."""
    monkeypatch.setattr(PRODUCTS, "LEAST", 1)
    monkeypatch.setattr(PRODUCTS, "_reason_against_bfloat16", lambda: "")


@pytest.mark.parametrize("modality", ["speech", "text", "vision2"])
def test_an_interrupted_run_ends_with_the_same_bits(
    modality, make_config, train, tmp_path, assert_same_run, every_product_is_ours, monkeypatch
):
    config = make_config(modality, steps=4, precision={"autocast": "bfloat16"})
    seen = []
    product = PRODUCTS._forward
    monkeypatch.setattr(PRODUCTS, "_forward", lambda x, *rest: seen.append(x.dtype) or product(x, *rest))
    train(config, tmp_path / "whole")
    assert torch.bfloat16 in seen
    calls, losses = iter(range(100)), PretrainingTask.losses

    def dies(*given):
        if next(calls) == 5:  # in the third step
            raise RunStopped("here")
        return losses(*given)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTask, "losses", dies)
        with pytest.raises(RunStopped):
            train(config, tmp_path / "parts")
    train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 4)


def test_copies_are_given_back_when_a_run_ends(make_config, make_data, tmp_path):
    config = make_config("text", steps=2, precision={"autocast": "bfloat16"})
    trainer = Data2VecTrainer(config, data=make_data("text"), out=tmp_path / "run")
    weight = trainer.model.student.encoder.blocks[0].ffn.up.weight
    copies = []
    trainer.loop.observe = lambda step: copies.append(_kept[weight].numbers) or {}
    trainer.fit()
    assert torch.equal(copies[-1], weight.detach().bfloat16())
    assert weight not in _kept


def test_auto_takes_bfloat16_where_it_pays(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_products", lambda: True)
    assert choose_format(CPU, LEAST_WIDTH)[0] == "bfloat16"
    name, why = choose_format(CPU, LEAST_WIDTH - 1)
    assert (name, "too few" in why) == ("float32", True)
    monkeypatch.setattr(precision, "has_bfloat16_products", lambda: False)
    assert choose_format(CPU, LEAST_WIDTH)[0] == "float32"
    for has, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert choose_format(torch.device("cuda"), 8)[0] == name
    assert choose_format(torch.device("meta"), LEAST_WIDTH)[0] == "float32"


def test_auto_is_settled_once_said_and_written(make_config, make_data, tmp_path, monkeypatch, caplog):
    config = make_config("text", steps=1, precision={"autocast": "auto"})
    data, out = make_data("text"), tmp_path / "run"
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(precision, "choose_format", lambda device, width: ("bfloat16", "a test"))
    Data2VecTrainer(config, data=data, out=out).fit()
    assert "precision.autocast: bfloat16 (a test)" in caplog.text
    assert read_config(out).precision.autocast == "bfloat16"
    # On another machine the run goes on as it began.
    monkeypatch.setattr(precision, "choose_format", lambda device, width: ("float32", "another machine"))
    trainer = Data2VecTrainer(replace(config, steps=2), data=data, out=out)
    trainer.fit()
    assert trainer.config.precision.autocast == read_config(out).precision.autocast == "bfloat16"
    assert "precision.autocast: bfloat16 (as the run began)" in caplog.text
    with pytest.raises(ConfigError, match="'auto', which a trainer settles"):
        autocast(config.precision, CPU)
