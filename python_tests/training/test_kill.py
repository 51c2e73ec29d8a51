"""Real processes, really killed. The bits of the finished run do not depend on when the signals arrive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.errors import RunError
from d2v_fast.training.trainer import Data2VecTrainer

STEPS = 90
MAIN = "from d2v_fast.commands.cli import main; main()"
OVERRIDES = {
    "steps": STEPS,
    "seed": 3,
    "log": {"every": 1},
    "checkpoint": {"every": 3},
    "loader": {"batch_size": 4, "accumulation": 3},
    "model": {"transformer": {"depth": 2, "dim": 32, "ffn_dim": 64, "dropout": 0.1, "layer_drop": 0.1},
              "target": {"top_k": 2}},
    "monitor": {"warmup_steps": 10_000},
}  # fmt: skip
PRESETS = ["vision-tiny", "vision2-tiny"]


@pytest.fixture
def pictures(tmp_path):
    """40 pictures: 10 micro-batches of 4, so an epoch ends in the middle of a step's accumulation of 3."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(1)
    for i in range(40):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def flags(values: dict, prefix: str = "") -> list[str]:
    result = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        result += flags(value, f"{name}.") if isinstance(value, dict) else [f"--{name.replace('_', '-')}", str(value)]
    return result


class Process:
    """`d2v-fast pretrain` in a process of its own."""

    def __init__(self, data: Path, out: Path, preset: str) -> None:
        arguments = ["pretrain", preset, "--data", str(data), "--out", str(out), "--no-scale", *flags(OVERRIDES)]
        self.metrics = out / "metrics.jsonl"
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, condition) -> None:
        while not condition():
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.0005)

    def lines(self) -> int:
        return self.metrics.read_bytes().count(b"\n") if self.metrics.exists() else 0

    def end(self, signum: int | None = None) -> tuple[int, str]:
        if signum is not None:
            self.process.send_signal(signum)
        _, errors = self.process.communicate(timeout=600)
        return self.process.returncode, errors


@pytest.mark.parametrize("preset", PRESETS)
def test_killed_terminated_and_finished(pictures, tmp_path, assert_same_run, preset):
    out = tmp_path / "run"
    checkpoints = out / "checkpoints"

    first = Process(pictures, out, preset)
    first.wait_for(lambda: first.lines() >= 5 and list(checkpoints.glob(".writing_*/*")))
    code, _ = first.end(signal.SIGKILL)  # while a checkpoint is written, or just after
    assert code == -signal.SIGKILL
    lines = first.lines()
    assert 5 <= lines < STEPS

    second = Process(pictures, out, preset)
    second.wait_for(lambda: second.lines() >= lines + 5)
    config = with_overrides(presets.preset(preset), OVERRIDES)
    with pytest.raises(RunError, match=rf"is in use by process {second.process.pid} on "):
        Data2VecTrainer(config, data=pictures, out=out, device="cpu").fit()
    code, errors = second.end(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    message = errors.strip().splitlines()[-1]
    step = int(message.split("step ")[1].split()[0])
    assert message == f"d2v-fast: stopped after step {step} of {STEPS}; run the same command again to continue"
    assert (checkpoints / f"step_{step:08d}" / "state.json").exists()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == step

    third = Process(pictures, out, preset)
    third.wait_for(lambda: third.lines() >= step + 3)
    code, errors = third.end(signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert "Traceback" not in errors

    code, errors = Process(pictures, out, preset).end()
    assert code == 0, errors
    whole = Data2VecTrainer(config, data=pictures, out=tmp_path / "whole", device="cpu").fit()
    assert_same_run(whole, out, STEPS)
