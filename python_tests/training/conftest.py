"""Tiny runs of every modality: two layers of width 32 with every kind of noise, on data made from a seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d2v_fast.data import ArraySource
from d2v_fast.data.config import LoaderConfig, SpeechInputs, TextInputs, VisionInputs
from d2v_fast.masking.config import BlockMask, SpanMask, TokenMask
from d2v_fast.models.config import (
    HeadConfig,
    LossConfig,
    ModelConfig,
    SpeechEmbedding,
    TargetConfig,
    TeacherConfig,
    TextEmbedding,
    TransformerConfig,
    VisionEmbedding,
)
from d2v_fast.training.config import CheckpointConfig, Config, EmaConfig, LogConfig, MonitorConfig, OptimConfig
from d2v_fast.training.config_json import with_overrides
from d2v_fast.training.trainer import Data2VecTrainer

TIMES = ("samples_per_second", "data_wait")


@pytest.fixture(autouse=True)
def one_thread():
    """The bits of a run are promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Its import costs more than these runs; test_progress.py writes to it."""
    monkeypatch.setattr("d2v_fast.training.progress.find_spec", lambda name: None)


def _config(modality: str, **overrides) -> Config:
    parts = {
        "speech": {
            "embedding": SpeechEmbedding(
                conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8)),
                position_depth=1,
                position_kernel=5,
                position_groups=4,
            ),
            "mask": SpanMask(probability=0.5, length=3),
            "inputs": SpeechInputs(min_seconds=0.2, max_seconds=0.8),
            "loader": LoaderConfig(batch_size=3, accumulation=2, batch_seconds=2.0),
            "teacher": TeacherConfig(averages="layers"),
        },
        "vision": {
            "embedding": VisionEmbedding(image_size=16, patch_size=4),
            "mask": BlockMask(count=9, min_area=2),
            "inputs": VisionInputs(),
            "loader": LoaderConfig(batch_size=3, accumulation=2),
            "teacher": TeacherConfig(averages="all"),
        },
        "text": {
            "embedding": TextEmbedding(vocab_size=300, max_length=16),
            "mask": TokenMask(probability=0.3),
            "inputs": TextInputs(block_size=16),
            "loader": LoaderConfig(batch_size=3, accumulation=2),
            "teacher": TeacherConfig(averages="transformer"),
        },
    }[modality]
    norm_first = modality == "vision"
    config = Config(
        model=ModelConfig(
            embedding=parts["embedding"],
            transformer=TransformerConfig(
                dim=32,
                depth=2,
                heads=2,
                ffn_dim=64,
                norm_first=norm_first,
                layer_drop=0.2,
                drop_path=0.1 if norm_first else 0.0,
                layer_scale=0.1 if norm_first else None,
            ),
            head=HeadConfig(layers=2 if modality == "text" else 1),
            target=TargetConfig(top_k=2),
            loss=LossConfig(beta=1.0),
            teacher=parts["teacher"],
        ),
        mask=parts["mask"],
        inputs=parts["inputs"],
        loader=parts["loader"],
        optim=OptimConfig(lr=1e-3, clip_norm=1.0, warmup=0.2),
        ema=EmaConfig(start=0.9, end=0.99, anneal_steps=5),
        checkpoint=CheckpointConfig(every=3),
        log=LogConfig(every=2),
        monitor=MonitorConfig(warmup_steps=10_000),
        steps=8,
    )
    return with_overrides(config, overrides)


@pytest.fixture
def make_config():
    """(modality, **overrides) to a tiny configuration."""
    return _config


@pytest.fixture(scope="session")
def make_data(tmp_path_factory):
    """Modality to data: 16 samples, so that an epoch is over in the middle of a run."""
    made = {}

    def make(modality: str):
        if modality not in made:
            random = np.random.default_rng(7)
            if modality == "speech":
                sizes = random.integers(5_000, 14_000, 16)
                made[modality] = ArraySource("speech", [random.standard_normal(n).astype(np.float32) for n in sizes])
            elif modality == "vision":
                pictures = [random.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(16)]
                made[modality] = ArraySource("vision", pictures)
            else:
                words = ["the", "teacher", "sees", "all", "of", "it", "a", "student", "part", "and", "guesses"]
                folder = tmp_path_factory.mktemp("text")
                lines = [" ".join(random.choice(words, 40)) for _ in range(12)]
                (folder / "corpus.txt").write_text("\n\n".join(lines))
                made[modality] = folder / "corpus.txt"
        return made[modality]

    return make


@pytest.fixture
def train(make_data):
    """(config, out, **trainer arguments) trains to the end; the run's folder."""

    def run(config: Config, out: Path, **arguments) -> Path:
        return Data2VecTrainer(config, data=make_data(config.model.modality), out=out, **arguments).fit()

    return run


@pytest.fixture
def read_lines():
    """The lines of a run's metrics.jsonl without the times."""

    def read(run: Path) -> list[dict]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]

    return read


@pytest.fixture
def read_weights():
    """Every tensor of the checkpoint of a step, by file and name."""

    def read(run: Path, step: int) -> dict[str, torch.Tensor]:
        folder = run / "checkpoints" / f"step_{step:08d}"
        return {
            f"{path.stem}/{name}": tensor
            for path in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(path).items()
        }

    return read


@pytest.fixture
def assert_same_run(read_lines, read_weights):
    """Two finished runs have the same bits: student, teacher, optimizer and metrics."""

    def check(one: Path, other: Path, step: int) -> None:
        first, second = read_weights(one, step), read_weights(other, step)
        assert first.keys() == second.keys()
        assert len(first) > 50
        different = [name for name in first if not torch.equal(first[name], second[name])]
        assert different == []
        assert read_lines(one) == read_lines(other)

    return check
