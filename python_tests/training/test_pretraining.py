"""The settings of a start: what follows from what is given, and what a run keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import d2v_fast
from d2v_fast import presets
from d2v_fast.config import NUMERICS, EmaConfig
from d2v_fast.config_json import dotted, with_overrides
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.run.directory import read_config
from d2v_fast.run.reader import Run
from d2v_fast.training.pretraining import explain, settle
from d2v_fast.training.trainer import Data2VecTrainer

SMALL = {
    "model": {"transformer": {"depth": 2}, "target": {"top_k": 2}},
    "loader": {"batch_size": 4},
    "checkpoint": {"every": 1},
}


@pytest.fixture(scope="module")
def digits():
    random = np.random.default_rng(0)
    return ArraySource("vision", [random.integers(0, 255, (8, 8), dtype=np.uint8) for _ in range(12)])


def test_a_quarter_of_the_batch_of_vision_base(tmp_path):
    start = settle("vision-base", {"loader.batch_size": 64}, tmp_path / "run")
    config = start.config
    assert (config.loader.batch_size, config.loader.accumulation) == (64, 8)
    assert config.optim.lr == pytest.approx(1e-3, rel=1e-12)  # 2e-3 times the root of 512 / 2,048
    assert config.steps == 2_000_000
    assert config.monitor.warmup_steps == 25_000
    assert 1 - config.ema.end == pytest.approx(5.000375e-5, rel=1e-6)
    assert set(start.notes.derived) == {"optim.lr", "ema.start", "ema.end", "steps", "monitor.warmup_steps"}
    assert explain(start) == (
        "512 samples a step instead of the 2,048 samples of vision-base: set optim.lr 0.001, ema.start 0.99995, "
        "ema.end 0.99995, steps 2,000,000, monitor.warmup_steps 25,000 "
        "(a field that you give stays as it is; --no-scale changes none)"
    )


def test_what_is_given_wins(tmp_path):
    given = {"loader.batch_size": 64, "optim.lr": 2e-3, "ema": EmaConfig(start=0.9, end=0.99), "steps": 1000}
    start = settle("vision-base", given, tmp_path / "run")
    assert start.config.optim.lr == 2e-3
    assert start.config.ema == EmaConfig(start=0.9, end=0.99)
    assert start.config.steps == 1000
    assert start.notes.derived == ("monitor.warmup_steps",)
    assert start.config.monitor.warmup_steps == 12  # 6,250 of 500,000


def test_fewer_steps_take_the_annealing_along(tmp_path):
    config = settle("speech-base", {"steps": 40_000}, tmp_path / "run").config
    assert (config.ema.anneal_steps, config.monitor.warmup_steps) == (3000, 500)
    assert (config.optim.lr, config.ema.start) == (presets.speech_base().optim.lr, 0.999)
    kept = settle("speech-base", {"steps": 40_000}, tmp_path / "run", scale=False)
    assert kept.config == replace(presets.speech_base(), steps=40_000)
    assert kept.notes.derived == ()


@pytest.mark.parametrize(
    ("preset", "given", "ratio"),
    [
        ("speech-base", {"loader.accumulation": 2}, 1 / 4),
        ("speech-base", {"loader.batch_seconds": 950.0, "loader.batch_size": 1000}, 2),
        ("speech-base", {"loader.batch_size": 8}, 8 * 20 / 475),  # eight clips of at most 20 s
        ("speech-base", {"loader.batch_seconds": None, "loader.batch_size": 19}, 19 * 20 / 475),
        ("text-base", {"loader.batch_tokens": 8192}, 8192 / (128 * 512)),
        ("text-base", {"loader.batch_tokens": 10**6}, 1),  # the number of blocks is what bounds it
        ("text-base", {"loader.batch_tokens": 32768, "loader.batch_size": 64, "loader.accumulation": 4}, 1),
        ("vision-base", {"loader.batch_size": 256}, 1),
        ("vision-base", {"loader.batch_size": 512, "loader.accumulation": 16}, 4),
    ],
)
def test_every_way_to_give_another_batch(tmp_path, preset, given, ratio):
    recipe = presets.preset(preset)
    config = settle(preset, given, tmp_path / "run").config
    assert config.optim.lr == pytest.approx(recipe.optim.lr * math.sqrt(ratio), rel=1e-12)
    assert config.ema.start == pytest.approx(recipe.ema.start**ratio, rel=1e-12)
    assert config.steps == round(recipe.steps / ratio)


def test_a_run_keeps_what_was_decided(digits, tmp_path, monkeypatch):
    out = tmp_path / "run"
    d2v_fast.pretrain("vision-tiny", data=digits, out=out, steps=1, **SMALL)
    before = read_config(out)
    assert before.optim.lr == pytest.approx(2e-3 * math.sqrt(1 / 8))
    other = replace(presets.vision_tiny(), optim=replace(presets.vision_tiny().optim, lr=1.0))
    monkeypatch.setitem(presets.NAMES, "vision-tiny", lambda: other)
    d2v_fast.pretrain("vision-tiny", data=digits, out=out, steps=2, **SMALL)
    assert replace(read_config(out), steps=1) == before
    assert Run(out).notes.preset == "vision-tiny"
    assert "optim.lr" in Run(out).notes.derived
    with pytest.raises(RunError, match=r"optim\.lr: the run has 0\.0007.*, this command 0\.5"):
        d2v_fast.pretrain("vision-tiny", data=digits, out=out, steps=2, optim={"lr": 0.5}, **SMALL)
    with pytest.raises(RunError, match="is a run of the preset vision-tiny, not of vision-base"):
        d2v_fast.pretrain("vision-base", data=digits, out=out)


def test_a_start_that_failed_decides_nothing(digits, tmp_path):
    """Fault: a first start with a wrong setting blocked the folder, or left its derived values behind."""
    out = tmp_path / "run"
    with pytest.raises(DataError):
        d2v_fast.pretrain("vision-tiny", data="nowhere", out=out, steps=1, **SMALL)
    d2v_fast.pretrain("vision-tiny", data=digits, out=out, steps=1, **SMALL | {"loader": {"batch_size": 2}})
    assert read_config(out).optim.lr == pytest.approx(2e-3 / 4)


def test_a_run_begun_from_python_continues_by_its_preset(digits, tmp_path):
    """As one of an older version, it does not say its preset: model, masks and inputs must be what is asked for."""
    out = tmp_path / "run"
    small = with_overrides(presets.vision_tiny(), dotted(SMALL) | {"steps": 1})
    Data2VecTrainer(small, data=digits, out=out).fit()
    assert Run(out).notes.preset is None
    with pytest.raises(RunError, match=r"model\.transformer\.depth: the run has 2, this command 4"):
        d2v_fast.pretrain("vision-tiny", data=digits, out=out, steps=2)
    d2v_fast.pretrain("vision-tiny", data=digits, out=out, steps=2, **SMALL)
    config = read_config(out)
    assert (config.optim.lr, config.steps) == (2e-3, 2)  # not scaled: the trainer takes what it is given
    assert Run(out).notes.preset == "vision-tiny"


def test_a_run_of_the_first_rules_keeps_them(digits, tmp_path):
    out = tmp_path / "run"
    config = with_overrides(presets.vision_tiny(), dotted(SMALL) | {"steps": 1, "numerics": 1})
    Data2VecTrainer(config, data=digits, out=out).fit()
    trainer = Data2VecTrainer(replace(config, steps=2, numerics=NUMERICS), data=digits, out=out)
    trainer.fit()
    assert trainer.config.numerics == read_config(out).numerics == 1
    assert not trainer.loop.update.one_pass  # as it began
    assert Data2VecTrainer(replace(config, numerics=NUMERICS), data=digits, out=tmp_path / "new").loop.update.one_pass


@pytest.mark.parametrize("data", ["", "  "])
def test_empty_data_is_refused_before_anything_is_made(tmp_path, data):
    with pytest.raises(DataError, match="data is empty"):
        d2v_fast.pretrain("vision-tiny", data=data, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_value_is_refused_before_anything_is_made(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.lr is nan"):
        d2v_fast.pretrain("vision-tiny", data=digits, out=tmp_path / "run", optim={"lr": float("nan")})
    assert list(tmp_path.iterdir()) == []
