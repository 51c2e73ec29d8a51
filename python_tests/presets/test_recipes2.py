"""The published numbers of data2vec 2.0, written down a second time from the released files, row by row."""

from dataclasses import asdict
from typing import Any

import pytest

from d2v_fast import presets

NAMES = ["speech2-base", "speech2-large", "vision2-base", "vision2-large", "vision2-huge16", "vision2-huge14"]
NAMES += ["text2-base", "text2-large"]
ROWS: dict[str, list[Any]] = {
    "model.transformer.depth": [12, 24, 12, 24, 32, 32, 12, 24],
    "model.transformer.prenet": [0, 8, 2, 0, 0, 0, 0, 0],
    "model.transformer.dim": [768, 1024, 768, 1024, 1280, 1280, 768, 1024],
    "model.transformer.heads": [12, 16, 12, 16, 16, 16, 12, 16],
    "model.transformer.ffn_dim": [3072, 4096, 3072, 4096, 5120, 5120, 3072, 4096],
    "model.transformer.norm_eps": [1e-5, 1e-5, 1e-6, 1e-6, 1e-6, 1e-6, 1e-5, 1e-5],
    "model.transformer.dropout": [0.1, 0.1, 0, 0, 0, 0, 0.1, 0.1],
    "model.transformer.attention_dropout": [0.1, 0.1, 0, 0, 0, 0, 0.1, 0.1],
    "model.transformer.layer_drop": [0.05, 0, 0, 0, 0, 0, 0, 0],
    "model.target.top_k": [8, 16, 10, 18, 24, 24, 12, 24],
    "model.target.layer_norm": [("instance",)] * 7 + [("layer",)],
    "model.target.final_norm": [(), (), *[("layer",)] * 4, (), ("instance",)],
    "model.loss.scale": [None] * 6 + [1.0, 1.0],
    "model.loss.class_token": [0, 0, 0.01 * 16 * 16, *[0.01 * 8 * 16] * 3, 0, 0],
    "model.teacher.averages": ["transformer"] * 2 + ["all"] * 4 + ["layers"] * 2,
    "model.head.dim": [384, 768, 768, 1024, 1024, 1024, 768, 768],
    "model.head.kernel": [7, 7, 3, 5, 5, 5, 9, 9],
    "model.head.layers": [4, 4, 6, 3, 3, 3, 5, 5],
    "model.head.groups": [16, 16, 16, 16, 16, 16, 1, 1],
    "model.head.residual": [True] * 6 + [False] * 2,
    "model.head.projection_layers": [1, 1, 1, 1, 1, 1, 2, 2],
    "model.head.input_dropout": [0.1, 0.1, 0, 0, 0, 0, 0.1, 0.1],
    "mask.views": [8, 12, 16, 16, 16, 16, 8, 8],
    "mask.ratio": [0.5, 0.55, 0.8, 0.75, 0.75, 0.75, 0.48, 0.5],
    "ema.start": [0.999, 0.9997, 0.9998, 0.9998, 0.9998, 0.9998, 0.9999, 0.9999],
    "ema.end": [0.99999, 1, 0.99999, 0.99999, 0.99995, 1, 0.99999, 0.99999],
    "ema.anneal_steps": [75_000, 300_000, 100_000, 150_000, 150_000, 300_000, 100_000, 100_000],
    "optim.lr": [7.5e-4, 4e-4, 1e-3, 4e-4, 4e-4, 4e-4, 2e-4, 1e-4],
    "optim.betas": [(0.9, 0.98)] * 2 + [(0.9, 0.95)] * 4 + [(0.9, 0.98)] * 2,
    "optim.eps": [1e-6, 1e-6, 1e-8, 1e-8, 1e-8, 1e-8, 1e-6, 1e-6],
    "optim.weight_decay": [0.01, 0.01, 0.05, 0.05, 0.05, 0.05, 0.01, 0.01],
    "optim.clip_norm": [None, 1, 4, 4, 4, 4, 1, 1],
    "steps": [400_000, 600_000, 375_300, 375_300, 375_300, 500_000, 1_000_000, 600_000],
}
WARMUP = [8_000, 10_000, 50_040, 50_040, 50_040, 50_040, 4_000, 4_000]
BATCH = [8 * 62.5, 48 * 20, 16 * 16, 8 * 16, 8 * 16, 8 * 32, 4 * 16, 2 * 32]
ALL = {
    "model.transformer.norm_first": False,
    "model.transformer.key_bias": True,
    "model.transformer.activation_dropout": 0.0,
    "model.transformer.drop_path": 0.0,
    "model.transformer.layer_scale": None,
    "model.target.feature": "ffn",
    "model.loss.beta": 0.0,
    "model.head.noise": 0.01,
    "model.head.projection_ratio": 2.0,
    "optim.decay_vectors": True,
    "optim.schedule": "cosine",
    "optim.first_lr": 0.0,
    "optim.last_lr": 0.0,
    "precision.teacher_float32": False,
}
PARTS: dict[str, dict[str, Any]] = {
    "speech2-base": {"mask.length": 5, "mask.adjust": 0.05, "model.embedding.alibi": True, "inputs.min_seconds": 2.0},
    "speech2-large": {"mask.length": 5, "mask.adjust": 0.1, "model.embedding.alibi": True, "inputs.max_seconds": 20.0},
    "vision2-base": {"mask.block": 3, "mask.adjust": 0.07, "model.embedding.positions": "sincos", "inputs.jitter": 0.0},
    "vision2-large": {"mask.block": 3, "mask.adjust": 0.1, "inputs.crop_scale": (0.2, 1.0)},
    "vision2-huge16": {"mask.block": 3, "mask.adjust": 0.1, "model.embedding.patch_size": 16},
    "vision2-huge14": {"mask.block": 3, "mask.adjust": 0.1, "model.embedding.patch_size": 14},
    "text2-base": {"inputs.block_size": 512, "model.embedding.vocab_size": 50265},
    "text2-large": {"inputs.block_size": 512, "model.embedding.vocab_size": 50265},
}
EAT = ALL | {
    "model.embedding.bins": 128,
    "model.embedding.patch": (16, 16),
    "model.embedding.max_frames": 1024,
    "model.transformer.depth": 12,
    "model.transformer.prenet": 0,
    "model.transformer.dim": 768,
    "model.transformer.norm_eps": 1e-6,
    "model.transformer.dropout": 0.0,
    "model.transformer.attention_dropout": 0.0,
    "model.target.top_k": 12,
    "model.target.layer_norm": ("instance",),
    "model.target.final_norm": ("layer",),
    "model.loss.scale": None,
    "model.loss.class_token": 192,
    "model.teacher.averages": "all",
    "model.head.dim": 768,
    "model.head.kernel": 3,
    "model.head.layers": 6,
    "model.head.groups": 16,
    "model.head.input_dropout": 0.0,
    "mask.ratio": 0.8,
    "mask.adjust": 0.07,
    "mask.block": 5,
    "mask.views": 16,
    "ema.start": 0.9998,
    "ema.end": 0.99999,
    "ema.anneal_steps": 100_000,
    "optim.lr": 5e-4,
    "optim.betas": (0.9, 0.95),
    "optim.weight_decay": 0.05,
    "optim.clip_norm": 4.0,
    "steps": 400_000,
}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration under its dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{prefix}.{name}" if prefix else name).items()}


@pytest.mark.parametrize(("column", "name"), list(enumerate(NAMES)))
def test_every_number_is_the_released_one(column, name):
    config = presets.preset(name)
    actual = flat(asdict(config))
    expected = ALL | {row: values[column] for row, values in ROWS.items()} | PARTS[name]
    assert {key: actual[key] for key in expected} == expected
    assert config.optim.warmup * config.steps == pytest.approx(WARMUP[column])
    assert presets.global_batch(config) == BATCH[column]


def test_eat():
    config = presets.spectrogram2_base()
    actual = flat(asdict(config))
    assert {key: actual[key] for key in EAT} == EAT
    assert config.optim.warmup * config.steps == pytest.approx(53_333)
    assert presets.global_batch(config) == pytest.approx(48 * 10.24)
    embedding = config.model.embedding
    longest = round(config.inputs.max_seconds * config.inputs.frame_rate)
    assert (embedding.tokens(longest), embedding.bands) == (64 * 8, 8)


@pytest.mark.parametrize("modality", ["vision", "speech", "text", "series", "spectrogram"])
def test_a_tiny_one_has_the_network_of_the_first_method(modality):
    first, second = presets.preset(f"{modality}-tiny"), presets.preset(f"{modality}2-tiny")
    for name in ("dim", "depth", "heads", "ffn_dim"):
        assert getattr(first.model.transformer, name) == getattr(second.model.transformer, name)
    assert first.inputs == second.inputs
    own = ("alibi", "positions", "position_depth")  # how positions are encoded belongs to the method
    kept = {name: value for name, value in asdict(second.model.embedding).items() if name not in own}
    assert kept.items() <= asdict(first.model.embedding).items()
    assert second.model.encodes_kept
    assert second.mask.views > 1
