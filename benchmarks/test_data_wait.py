"""The share of a training run that is spent waiting for data: `data_wait` of metrics.jsonl, for each tiny preset.

Files on the disk, the preset's own batches and model, two decoding threads beside the model's. The first log line, in
which the first batches are made, is left out; the others are weighted alike.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.training.trainer import Data2VecTrainer


def write_pictures(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")


def write_clips(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for i in range(count):
        clip = 0.1 * random.standard_normal(int(16000 * random.uniform(1, 6)))
        soundfile.write(folder / f"{i}.{'flac' if i % 2 else 'wav'}", clip, 16000)


def write_text(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghijklmnop"), random.integers(2, 9))) for _ in range(500)]
    for i in range(count):
        (folder / f"{i}.txt").write_text(" ".join(random.choice(words, 2000)))


CASES = {
    "vision-tiny": (write_pictures, 1000, 300),
    "speech-tiny": (write_clips, 200, 60),
    "text-tiny": (write_text, 60, 300),
}
"""Preset to (writer of files, how many, steps)."""


@pytest.mark.parametrize("preset", CASES)
def test_share_of_waiting(preset, benchmark, quick, note, tmp_path, capsys):
    write, files, steps = CASES[preset]
    steps = 4 if quick else steps
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", 40 if quick else files)
    every = steps // 4
    config = with_overrides(presets.NAMES[preset](), {"steps": steps, "log": {"every": every}})
    trainer = Data2VecTrainer(config, data=tmp_path / "data", out=tmp_path / "run")
    began = time.perf_counter()
    benchmark.pedantic(trainer.fit, rounds=1, iterations=1)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, *rest = (line["data_wait"] for line in lines)
    share = float(np.mean(rest))
    benchmark.extra_info.update(data_wait=share, first=first)
    note(f"{preset}, {steps} steps: {share:.2%} waiting for data (first line {first:.1%})", seconds)
