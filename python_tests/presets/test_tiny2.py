"""The tiny presets of data2vec 2.0 train: views, kept tokens, decoder and teacher of every modality together."""

import json

import numpy as np
import pytest

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource
from d2v_fast.training.trainer import Data2VecTrainer


def data(modality, tmp_path):
    random = np.random.default_rng(3)
    if modality == "vision":
        return ArraySource("vision", list(random.integers(0, 256, (12, 8, 8), dtype=np.uint8)))
    if modality == "speech":
        return ArraySource(
            "speech", [random.standard_normal(n).astype(np.float32) for n in (9000, 16000, 12000, 20000)]
        )
    if modality == "series":
        return ArraySource("series", [random.standard_normal((n, 4)).astype(np.float32) for n in (500, 900, 1200, 700)])
    if modality == "spectrogram":
        return ArraySource("spectrogram", [random.standard_normal((n, 80)).astype(np.float32) for n in (120, 200, 300)])
    (tmp_path / "corpus.txt").write_text("\n\n".join("a student guesses what the teacher sees " * 4 for _ in range(8)))
    return tmp_path / "corpus.txt"


@pytest.mark.parametrize("modality", ["vision", "speech", "series", "spectrogram", "text"])
def test_two_steps(modality, tmp_path):
    config = with_overrides(
        presets.preset(f"{modality}2-tiny"), {"steps": 2, "loader.batch_size": 4, "log.every": 1, "checkpoint.every": 2}
    )
    run = Data2VecTrainer(config, data=data(modality, tmp_path), out=tmp_path / "run", device="cpu").fit()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    assert (run / "checkpoints" / "step_00000002").is_dir()
