"""Settings of fine-tuning by name: what differs from the defaults of `FinetuneConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TINY: Mapping[str, Any] = {
    "steps": 300,
    "optim.lr": 1e-3,
    "log.every": 10,
    "log.validate_every": 50,
    "checkpoint.every": 100,
    "encoder.layer_decay": 0.75,
}

_SPEECH: Mapping[str, Any] = {
    "optim.betas": (0.9, 0.98),
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.0,
    "optim.clip_norm": None,
    "optim.schedule": "tri_stage",
    "optim.warmup": 0.1,
    "optim.hold": 0.4,
    "optim.first_lr": 0.01,
    "optim.last_lr": 0.05,
    "loader.batch_size": 1000,
    "loader.batch_seconds": 200.0,
    "loader.accumulation": 8,
    "model.transformer.layer_drop": 0.1,
    "model.transformer.dropout": 0.0,
    "model.transformer.attention_dropout": 0.0,
    "model.transformer.activation_dropout": 0.1,
}
"""fairseq's configurations base_10m to base_960h, which data2vec was fine-tuned with: 26.7 minutes in a step (960 h on
8 GPUs without accumulation, which is the same)."""


def _librispeech(steps: int, lr: float, mask: float, channels: float, frozen: int, **others: Any) -> dict[str, Any]:
    return {
        **_SPEECH,
        "steps": steps,
        "optim.lr": lr,
        "ctc.mask_probability": mask,
        "ctc.channel_probability": channels,
        "encoder.freeze_steps": frozen,
        **others,
    }


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "classify-tiny": {**_TINY, "task.smoothing": 0.1},
    "regress-tiny": _TINY,
    "tag-tiny": _TINY,
    "ctc-tiny": {
        **_TINY,
        "steps": 600,
        "optim.lr": 2e-3,
        "ctc.mask_probability": 0.2,
        "ctc.mask_length": 3,
        "ctc.channel_probability": 0.0,
        "encoder.layer_decay": 1.0,
    },
    "librispeech-10m": _librispeech(13_000, 5e-5, 0.65, 0.25, 10_000),
    "librispeech-1h": _librispeech(13_000, 5e-5, 0.65, 0.25, 10_000),
    "librispeech-10h": _librispeech(20_000, 5e-5, 0.65, 0.5, 10_000, **{"model.transformer.layer_drop": 0.05}),
    "librispeech-100h": _librispeech(80_000, 3e-5, 0.65, 0.5, 0),
    "librispeech-960h": _librispeech(320_000, 1e-4, 0.5, 0.1, 0),
    "probe-tiny": {**_TINY, "encoder.frozen": True, "encoder.layer_decay": 1.0, "optim.weight_decay": 0.0},
}
"""Dotted names of fields to their values. The tiny ones are for the tiny presets and are not published; "probe-tiny" is
a linear probe. Those of LibriSpeech are published for base models; no paper says which made its table."""
