"""The profile: every part of a step is found, nothing is counted twice, and the functions are put back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2v_fast import ops
from d2v_fast.commands.cli import main
from d2v_fast.errors import ConfigError
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.report.profile import PARTS, _Account, profile
from d2v_fast.run.metrics import Clock
from d2v_fast.training.flops import counter
from d2v_fast.training.trainer import Data2VecTrainer


def test_time_belongs_to_the_innermost_part():
    ticks = iter(range(100))
    account = _Account(lambda: next(ticks))
    with account.part("student"), account.part("loss"):
        pass
    with pytest.raises(KeyError), account.part("update"):
        raise KeyError
    assert {k: v for k, v in account.end().items() if v} == {"rest": 3, "student": 2, "loss": 1, "update": 1}


@pytest.mark.parametrize("modality", ["speech", "vision", "text", "vision2"])
def test_parts_of_a_step(make_config, make_data, tmp_path, modality, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, data = make_config(modality), make_data(modality)
    trainer = Data2VecTrainer(config, data=data, out=tmp_path / "run")
    encoder, layer_targets = trainer.model.student.encoder, ops.layer_targets
    result = profile(trainer, rounds=2)
    assert list(result.seconds) == list(result.flops) == list(PARTS)
    assert all(value > 0 for value in result.seconds.values())
    assert ops.layer_targets is layer_targets
    assert "embed" not in vars(encoder)
    assert not {"step", "backward"} & set(vars(trainer.loop.update))
    assert list(tmp_path.iterdir()) == []
    # Each product counts once, and all of them are found.
    with open_loader(config, open_data(data, config, None)) as loader:
        batches = loader.step(0)
    other = Data2VecTrainer(config, data=data, out=tmp_path / "run")
    with counter() as counted:
        other.loop.step(0, batches, Clock())
    assert sum(result.flops.values()) == counted.get_total_flops() > 0
    assert {part for part, flops in result.flops.items() if flops} == {"embed", "teacher", "student", "backward"} - (
        {"embed"} if modality == "text" else set()
    )
    assert result.flops["backward"] > result.flops["student"] > 0
    assert result.rows()[-1][0] == "step"
    assert f"of the {result.peak / 1e9:.0f} GFLOP/s of bare ones" in result.summary()


def test_compiled_blocks_are_refused(make_config, make_data, tmp_path):
    config = make_config("vision")
    trainer = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path)
    trainer.loop.config = replace(config, precision=replace(config.precision, compile=True))
    with pytest.raises(ConfigError, match=r"precision\.compile: compiled blocks have no parts"):
        profile(trainer)


def test_the_command_prints_a_table_and_draws(make_config, tmp_path, capsys):
    config, data = make_config("vision"), tmp_path / "pictures"
    data.mkdir()
    for i in range(8):
        Image.fromarray(np.full((16, 16), 30 * i, np.uint8)).save(data / f"{i}.png")
    run = Data2VecTrainer(replace(config, steps=1), data=data, out=tmp_path / "run").fit()
    before = sorted(run.rglob("*"))
    picture = tmp_path / "parts.png"
    main(["profile", str(run), "--data", str(data), "--rounds", "1", "--loader.batch-size", "2", "--out", str(picture)])
    printed = capsys.readouterr().out
    assert [part for part in (*PARTS, "step") if part not in printed] == []
    assert "samples/s; matrix products at" in printed
    assert printed.split()[-1] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x"], "the preset or the run comes first"),
        (["nothing-here", "--data", "x"], "there is no preset 'nothing-here'"),
        (["vision-tiny", "--data", "x", "--rounds", "0"], "--rounds: expected 1 to 1000 steps, got 0"),
        (["vision-tiny"], "missing --data"),
    ],
)
def test_what_cannot_be_profiled(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["profile", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
