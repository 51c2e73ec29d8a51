"""Features of masked views of samples: what the student makes of several masks of the same input. LiDAR takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.config import Config
from d2v_fast.data import DataSource
from d2v_fast.errors import SampleError
from d2v_fast.evaluation.label_free import lidar
from d2v_fast.evaluation.layers import token_features
from d2v_fast.modalities import modality_of
from d2v_fast.models import Encoder
from d2v_fast.models.grouping import grouped

SAMPLES = 500
"""Samples that LiDAR is taken of at most: it cannot be larger than their number."""

VIEWS = 8
"""Masks of each of them."""


def lidar_of_layers(
    encoder: Encoder, config: Config, source: DataSource, layers: Sequence[int], *, batch_size: int = 32
) -> dict[int, float]:
    """LiDAR (`label_free.lidar`) of the masked views of some samples, for each layer; nan where there is none.

    Args:
        encoder: See `masked_views`.
        config: See `masked_views`.
        source: Of more than `SAMPLES` samples, that many at even distances are taken.
        layers: Numbers of layers.
        batch_size: Samples in a batch at most.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLES)).astype(int)).tolist()
    views = masked_views(encoder, config, source, chosen, layers, batch_size=batch_size)
    found = {}
    for layer, features in zip(layers, views, strict=True):
        try:
            found[layer] = lidar(features)
        except ValueError:  # fewer than two samples, all alike, or a network whose outputs are not finite
            found[layer] = float("nan")
    return found


@torch.no_grad()
def masked_views(
    encoder: Encoder,
    config: Config,
    source: DataSource,
    numbers: Sequence[int],
    layers: Sequence[int],
    *,
    views: int = VIEWS,
    batch_size: int = 32,
) -> np.ndarray:
    """The mean over the tokens that a mask leaves, for several masks of each sample.

    The masks are those of the run: of its section `mask`, by its seed, for the sample's number and, one view each,
    epochs 0, 1, 2, ... So the same call gives the same views. Samples that cannot be read, or that are too short for
    the mask, are left out.

    Args:
        encoder: In eval mode, of the run.
        config: Of the run.
        source: Where the samples are.
        numbers: Which ones.
        layers: Numbers of layers.
        views: Masks of each sample.
        batch_size: Samples in a batch at most; only samples of one length are computed together.

    Returns:
        float32 [layers, samples, views, C].
    """
    modality: Any = modality_of(config)
    make = modality.mask_maker(config, source)
    device = next(encoder.parameters()).device

    def read(i: int) -> Tensor | None:
        try:
            found: Tensor = modality.prepare(source.read(i), encoder.inputs, encoder.config, name=source.name(i))
        except SampleError:  # told where all samples are read
            return None
        return found

    samples = ((i, sample) for i in numbers if (sample := read(i)) is not None)
    made: dict[int, Tensor] = {}
    for some, batch in grouped(samples, batch_size):
        ids = np.array(some, dtype=np.int64)
        try:
            drawn = [make(batch, None, ids, epoch) for epoch in range(views)]
        except ValueError:  # no span fits into samples this short
            continue
        seen = [_view(encoder, config, batch, masks, layers, device) for masks in drawn]
        made.update(zip(some, torch.stack(seen, dim=1).cpu(), strict=True))  # [B, views, layers, C]
    if not made:
        return np.zeros((len(layers), 0, views, 1), dtype=np.float32)
    rows = torch.stack([made[i] for i in sorted(made)])
    result: np.ndarray = rows.permute(2, 0, 1, 3).contiguous().numpy()
    return result


def _view(
    encoder: Encoder, config: Config, batch: Tensor, masks: Any, layers: Sequence[int], device: torch.device
) -> Tensor:
    """float32 [B, layers, C] of one view of each sample."""
    step = len(masks.mask) // len(batch)  # a mask configuration may draw several at once; the first is taken
    mask = masks.mask[::step]
    if masks.inputs is not None:
        tokens = token_features(encoder, masks.inputs[::step].to(device), layers)
    elif config.model.encodes_kept:
        kept = (~mask).flatten().nonzero().flatten()
        tokens = token_features(encoder, batch.to(device), layers, kept=kept)
    else:
        tokens = token_features(encoder, batch.to(device), layers, mask=mask.to(device))
    visible = (~mask).to(device=device, dtype=tokens.dtype)[:, :, None, None]
    return (tokens * visible).sum(1) / visible.sum(1).clamp_min(1)
