"""Published recipes for classes of ImageNet-1k (data2vec 1.0 and 2.0): task classify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IMAGES = 1_281_167
"""Pictures of the training set; steps are counted from them."""

_PICTURES: Mapping[str, Any] = {
    "inputs.crop_scale": (0.08, 1.0),
    "inputs.crop_ratio": (3 / 4, 4 / 3),
    "inputs.flip": 0.5,
    "inputs.jitter": 0.0,
    "inputs.randaugment": 2,
    "inputs.randaugment_magnitude": 9.0,
    "inputs.erase": 0.25,
    "augment.cutmix": 1.0,
    "task.smoothing": 0.1,
    "model.transformer.dropout": 0.0,
    "model.transformer.attention_dropout": 0.0,
    "model.transformer.activation_dropout": 0.0,
    "optim.eps": 1e-8,
    "optim.schedule": "cosine",
}


def _first(
    epochs: int, batch: int, batches: int, lr: float, drop_path: float, decay: float, warmup: float
) -> dict[str, Any]:
    per_epoch = _IMAGES // (batch * batches)
    return {
        **_PICTURES,
        "steps": epochs * per_epoch,
        "log.validate_every": per_epoch,
        "checkpoint.every": per_epoch,
        "loader.batch_size": batch,
        "loader.accumulation": batches,
        "optim.lr": lr,
        "optim.betas": (0.9, 0.999),
        "optim.weight_decay": decay,
        "optim.clip_norm": None,
        "optim.warmup": warmup,
        "optim.first_lr": 1e-6 / lr,
        "optim.last_lr": 1e-6 / lr,
        "encoder.layer_decay": 0.65,
        "model.transformer.drop_path": drop_path,
        "augment.mixup": 0.8,
        "head.layers": "block",
        "head.init_std": 2e-5,
    }


IMAGENET: Mapping[str, Mapping[str, Any]] = {
    "imagenet-base": _first(100, 128, 8, 4e-3, 0.2, 0.0, 0.1),
    "imagenet-large": _first(50, 64, 16, 5e-3, 0.25, 0.05, 0.1),
}
"""data2vec 1.0. Rates, epochs, layer decay, drop path, mixup and cutmix are in the commands of the code's README; the
rest are the defaults of its program. Its command for the large model leaves the warm-up open: here it is a tenth, as
for the base model. Deviations: shares of mixtures are drawn for each picture, there one for a batch; the statistics of
the pretraining are kept, there they are changed to 1/2; validation sees the whole picture, there its middle."""


def _second(
    steps: int, lr: float, last: float, clip: float | None, layer_decay: float, drop_path: float
) -> dict[str, Any]:
    return {
        **_PICTURES,
        "steps": steps,
        "log.validate_every": 2_502,
        "checkpoint.every": 2_502,
        "loader.batch_size": 32,
        "loader.accumulation": 16,
        "optim.lr": lr,
        "optim.betas": (0.9, 0.95),
        "optim.weight_decay": 0.05,
        "optim.decay_vectors": True,
        "optim.clip_norm": clip,
        "optim.warmup": 16_000 / steps,
        "optim.first_lr": 0.0,
        "optim.last_lr": last / lr,
        "encoder.layer_decay": layer_decay,
        "model.transformer.drop_path": drop_path,
        "model.transformer.layer_drop": 0.0,
        "augment.mixup": 0.7,
        "augment.mix_probability": 0.9,
    }


IMAGENET2: Mapping[str, Mapping[str, Any]] = {
    "imagenet2-base": _second(250_200, 1e-3, 1e-6, None, 0.65, 0.1),
    "imagenet2-large": _second(125_200, 5e-4, 1e-7, 4.0, 0.75, 0.2),
    "imagenet2-huge": _second(125_200, 5e-4, 1e-20, 4.0, 0.75, 0.2),
}
"""data2vec 2.0. All of it is from the code's configurations. Deviations: the rates by layer are BEiT's, which scale
what precedes the blocks most, there only the blocks are scaled; rates of drop path are evenly spaced; and those of
1.0."""
