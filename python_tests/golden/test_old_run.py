"""Runs that commit 68d0c7d began are continued: same samples, masks, noise and schedules, so the same curve."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from d2v_fast.data import ArraySource
from d2v_fast.run.directory import read_config
from d2v_fast.training.trainer import Data2VecTrainer

OLD = Path(__file__).parent / "old_run"
sys.path.append(str(OLD))
from old_data import RUNS, old_data  # noqa: E402

EXACT = ("step", "epoch", "lr", "ema_decay", "skipped_samples", "skipped_steps")
CLOSE = ("loss", "validation_loss", "grad_norm", "local_std", "pred_std", "target_std")
TOLERANCE = 1e-5  # relative: other processors add in another order


def curve(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["speech-padded", "vision", "text"])
def test_an_old_run_continues_on_its_own_curve(name, tmp_path, threads, monkeypatch):
    monkeypatch.setattr("d2v_fast.run.sinks.find_spec", lambda package: None)
    run = tmp_path / name
    shutil.copytree(OLD / name, run)
    config = read_config(run)
    with threads(1):
        trainer = Data2VecTrainer(config, data=old_data(RUNS[name], ArraySource), out=run, device="cpu")
        trainer.fit("must")
    expected, got = curve(OLD / name / "curve.json"), curve(run / "metrics.jsonl")
    assert [line["step"] for line in got] == list(range(1, 13))
    assert got[:6] == curve(OLD / name / "metrics.jsonl")
    assert "validation_loss" in got[-1]
    for before, after in zip(expected, got, strict=True):
        assert {key: after[key] for key in EXACT} == {key: before[key] for key in EXACT}
        close = [key for key in CLOSE if key in before]
        assert [after[key] for key in close] == pytest.approx([before[key] for key in close], rel=TOLERANCE)
    moved = torch.tensor([line["loss"] for line in expected[6:]])
    assert moved.std() > 1e-3  # a curve that does not move would prove nothing
