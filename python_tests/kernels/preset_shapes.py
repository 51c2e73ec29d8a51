"""What one micro-batch of a Base preset is to the kernels: shapes and formats, out of the preset itself."""

from __future__ import annotations

from typing import NamedTuple

import torch

from d2v_fast import presets
from d2v_fast.config import Config
from d2v_fast.masking import block_masks, span_masks, token_masks
from d2v_fast.models.data2vec import Data2Vec


class Shape(NamedTuple):
    """K layers [batch, frames, channels] of `width` bytes a number, and the rows that are masked."""

    layers: int
    batch: int
    frames: int
    channels: int
    rows: int
    width: int
    parameters: int
    """That the teacher averages."""


def front_end() -> list[tuple[int, int]]:
    """Rows and channels behind each convolution of speech-base, for the longest clips that a micro-batch takes."""
    config = presets.NAMES["speech-base"]()
    longest = config.inputs.max_seconds
    frames, batch, rows = round(longest * config.inputs.sample_rate), int(config.loader.batch_seconds // longest), []
    for channels, kernel, stride in config.model.embedding.conv_layers:
        frames = (frames - kernel) // stride + 1
        rows.append((batch * frames, channels))
    return rows


def speech() -> Shape:
    """As many clips of the greatest length as the seconds of a micro-batch allow."""
    config = presets.NAMES["speech-base"]()
    batch = int(config.loader.batch_seconds // config.inputs.max_seconds)
    frames = front_end()[-1][0] // batch
    masks = span_masks(config.mask, [frames] * batch, seed=0, epoch=0, sample_ids=range(batch))
    return _shape(config, batch, frames, masks.rows)


def vision() -> Shape:
    config = presets.NAMES["vision-base"]()
    side = config.model.embedding.image_size // config.model.embedding.patch_size
    batch = config.loader.batch_size
    masks = block_masks(config.mask, (side, side), seed=0, epoch=0, sample_ids=range(batch))
    return _shape(config, batch, side * side + 1, masks.rows)  # and the class token


def text() -> Shape:
    config = presets.NAMES["text-base"]()
    batch, frames = config.loader.batch_size, config.inputs.block_size
    tokens = torch.full((batch, frames), 5)
    ids = {"mask_id": 4, "vocab_size": config.model.embedding.vocab_size, "special_ids": [0, 1, 2, 3]}
    masks = token_masks(config.mask, tokens, seed=0, epoch=0, sample_ids=range(batch), **ids)
    return _shape(config, batch, frames, masks.rows)


def _shape(config: Config, batch: int, frames: int, rows: torch.Tensor) -> Shape:
    with torch.device("meta"):
        model = Data2Vec(config.model)
    own = sum(value.numel() for value in model.teacher.parameters() if not value.requires_grad)
    return Shape(
        config.model.target.top_k,
        batch,
        frames,
        config.model.transformer.dim,
        len(rows),
        4 if config.precision.teacher_float32 else 2,
        own,
    )


SHAPES = {"speech-base": speech, "vision-base": vision, "text-base": text}
