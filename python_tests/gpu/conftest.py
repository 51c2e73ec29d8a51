"""Tests for a GPU, skipped without one.

What a test does is written for any device and runs on the CPU too as far as it goes: so on a machine without a GPU
everything but the device is tried. The cases of the operations are those of python_tests/ops/device.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource

NO_GPU = "no GPU here (torch.cuda.is_available() is False)"
FACTORIES = ("arange", "full", "linspace", "ones", "randn", "tensor", "zeros")

for folder in (Path(__file__).parents[1] / "ops" / "device", Path(__file__).parents[2] / "benchmarks"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture
def gpu() -> torch.device:
    """The first GPU; a test that asks for it is skipped without one."""
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    return torch.device("cuda", 0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    """The CPU, then the GPU, which is skipped where there is none."""
    return torch.device("cpu") if request.param == "cpu" else request.getfixturevalue("gpu")


@pytest.fixture(autouse=True)
def float32_means_float32():
    """No TF32: results are compared with those of a CPU."""
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


class TorchOn:
    """`torch` as the cases see it: what they make out of nothing is on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        value = getattr(torch, name)
        if name not in FACTORIES:
            return value
        return lambda *args, **options: value(*args, **options).to(self._device)


@pytest.fixture
def cases(device, monkeypatch):
    """The cases of the operations, with their tensors on `device`."""
    module = importlib.import_module("cases")
    monkeypatch.setattr(module, "torch", TorchOn(device))
    monkeypatch.setattr(module, "ROWS", module.ROWS.to(device))
    return module


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Modality to data of the tiny presets' kind."""
    random = np.random.default_rng(3)
    clips = [random.standard_normal(n).astype(np.float32) for n in random.integers(9_000, 20_000, 24)]
    pictures = [random.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(64)]
    words = ["the", "teacher", "sees", "all", "of", "it", "a", "student", "part", "and", "guesses"]
    corpus = tmp_path_factory.mktemp("text") / "corpus.txt"
    corpus.write_text("\n\n".join(" ".join(random.choice(words, random.integers(3, 40))) for _ in range(80)))
    return {"speech": ArraySource("speech", clips), "vision": ArraySource("vision", pictures), "text": corpus}


@pytest.fixture
def tiny():
    """(modality, **overrides) to a few steps of the tiny preset: without dropout, whose bits depend on the device."""

    def make(modality: str, **overrides):
        short = {
            "steps": 6,
            "model": {"transformer": {"dropout": 0.0, "attention_dropout": 0.0}},
            "loader": {"batch_size": 8, "engine": "native"},
            "log": {"every": 1, "validate_every": 1000},
            "checkpoint": {"every": 1000},
            "monitor": {"warmup_steps": 1000},
            "precision": {"tf32": False},
        }
        if modality == "speech":
            short["loader"]["batch_seconds"] = 4.0
        config = with_overrides(presets.NAMES[f"{modality}-tiny"](), short)
        return with_overrides(config, overrides) if overrides else config

    return make
