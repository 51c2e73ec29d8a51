"""Published recipes for sound: speech recognition on LibriSpeech, tagging on AudioSet (data2vec 1.0 and 2.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ADAM: Mapping[str, Any] = {
    "optim.betas": (0.9, 0.98),
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.0,
    "optim.clip_norm": None,
    "loader.batch_size": 1000,  # the seconds decide
}

_SPEECH: Mapping[str, Any] = {
    **_ADAM,
    "optim.schedule": "tri_stage",
    "optim.warmup": 0.1,
    "optim.hold": 0.4,
    "optim.first_lr": 0.01,
    "optim.last_lr": 0.05,
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


LIBRISPEECH: Mapping[str, Mapping[str, Any]] = {
    "librispeech-10m": _librispeech(13_000, 5e-5, 0.65, 0.25, 10_000),
    "librispeech-1h": _librispeech(13_000, 5e-5, 0.65, 0.25, 10_000),
    "librispeech-10h": _librispeech(20_000, 5e-5, 0.65, 0.5, 10_000, **{"model.transformer.layer_drop": 0.05}),
    "librispeech-100h": _librispeech(80_000, 3e-5, 0.65, 0.5, 0),
    "librispeech-960h": _librispeech(320_000, 1e-4, 0.5, 0.1, 0),
}
"""data2vec 1.0, base models: task ctc. Only the code has them: no paper says which configurations made its table."""


def _librispeech2(
    steps: int,
    lr: float,
    warmup: int,
    mask: tuple[float, int],
    channels: float,
    batches: tuple[int, float],
    **others: Any,
) -> dict[str, Any]:
    """`mask`: probability and length of the spans; `batches`: micro-batches of a step, and the seconds of each."""
    return {
        **_SPEECH,
        "steps": steps,
        "optim.lr": lr,
        "optim.schedule": "cosine",
        "optim.warmup": warmup / steps,
        "optim.hold": 0.0,
        "optim.first_lr": 0.0,
        "optim.last_lr": 0.0,
        "loader.batch_seconds": batches[1],
        "loader.accumulation": batches[0],
        "ctc.mask_probability": mask[0],
        "ctc.mask_length": mask[1],
        "ctc.channel_probability": channels,
        "encoder.freeze_steps": 100,
        **others,
    }


_FALLS: Mapping[str, Any] = {"optim.schedule": "tri_stage", "optim.first_lr": 0.01, "optim.last_lr": 0.05}

LIBRISPEECH2: Mapping[str, Mapping[str, Any]] = {
    "librispeech2-10m": _librispeech2(10_000, 2e-6, 1_000, (0.4, 3), 0.25, (16, 62.5), **{"optim.betas": (0.9, 0.95)}),
    "librispeech2-1h": _librispeech2(60_000, 1e-5, 4_000, (0.65, 5), 0.25, (8, 62.5)),
    "librispeech2-10h": _librispeech2(60_000, 2e-5, 8_000, (0.5, 5), 0.1, (4, 80.0)),
    "librispeech2-100h": _librispeech2(100_000, 1e-5, 8_000, (0.4, 5), 0.1, (8, 80.0), **_FALLS),
    "librispeech2-960h": _librispeech2(200_000, 1e-5, 8_000, (0.4, 5), 0.1, (16, 62.5), **_FALLS),
}
"""data2vec 2.0: task ctc. The authors' later configurations vox_10m_2 to vox_960h_2. Only the code has them, beside
five other sets, and neither code nor paper says which one made the table. Two deviations: of 100 h and 960 h the rate
falls until the last step, there for 72,000 and 200,000 steps; and the slopes of ALiBi are trained, there not for 10
minutes."""

AUDIOSET: Mapping[str, Mapping[str, Any]] = {
    "audioset": {
        **_ADAM,
        "steps": 30_000,
        "optim.lr": 6e-5,
        "optim.schedule": "cosine",
        "optim.warmup": 5_000 / 30_000,
        "optim.last_lr": 0.0,
        "loader.batch_seconds": 160.0,
        "loader.accumulation": 8,
        "model.transformer.layer_drop": 0.1,
        "model.transformer.dropout": 0.1,
        "model.transformer.attention_dropout": 0.2,
        "model.transformer.activation_dropout": 0.1,
        "encoder.frozen_embedding": True,
        "head.pooling": "lin_softmax",
        "head.norm": False,
        "augment.mixup": 1.0,
        "augment.keep_power": True,
        "augment.mask_probability": 0.6,
        "augment.mask_length": 5,
    }
}
"""data2vec 1.0, base model: task tag. All of it is from the code's configuration. Two deviations: the share of a
mixture is uniform in [0, 1) and drawn for each clip, there uniform in [1/2, 1) and one for a batch; the loss is a mean
over clips and classes, there over the labels of the batch."""
