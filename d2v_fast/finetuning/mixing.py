"""Mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019), as a stage that changes a batch after its labels are there.

Each sample is mixed with the one before it in its batch. How is a function of (seed, epoch, sample id); the published
vision code draws one share for a whole batch instead.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast import rng
from d2v_fast.batch import Batch
from d2v_fast.data import Stage
from d2v_fast.finetuning.augment_config import AugmentConfig


def mix_stage(config: AugmentConfig, seed: int, classes: int) -> Stage:
    """A stage that mixes the samples of a batch, and their labels.

    Labels that are numbers of classes, int64 [B], become shares of the classes, float32 [B, classes]; others, float32
    [B] or [B, K], stay what they are and are averaged.

    Args:
        config: How much is mixed.
        seed: Of the run.
        classes: Number of classes, if labels are numbers of classes.
    """

    def add(batch: Batch, epoch: int) -> Batch:
        assert batch.labels is not None
        labels = batch.labels
        if labels.dtype == torch.int64:
            labels = F.one_hot(labels, classes)
        labels, ids = labels.float(), batch.sample_ids.numpy()
        u = rng.uniform(seed, "mix", epoch, ids, 4)
        mixed, cut = u[:, 0] < config.mix_probability, u[:, 1] < 0.5
        if not (config.mixup and config.cutmix):
            cut[:] = config.cutmix > 0
        shares = np.ones(len(ids))
        for alpha, rows in ((config.mixup, mixed & ~cut), (config.cutmix, mixed & cut)):
            shares[rows] = _shares(alpha, ids[rows], seed, epoch)
        boxes = None
        if (mixed & cut).any():
            boxes = cutmix_boxes(np.where(cut, shares, 1.0), u[:, 2:], tuple(batch.inputs.shape[-2:]))
            shares = np.where(cut, 1 - boxes[:, 2:].prod(1) / (batch.inputs.shape[-2] * batch.inputs.shape[-1]), shares)
        inputs = mix(batch.inputs, np.where(cut, 1.0, shares), keep_power=config.keep_power)
        if boxes is not None:
            inputs = paste(inputs, batch.inputs, boxes)
        lengths = batch.lengths
        if lengths is not None:
            lengths = torch.where(torch.from_numpy(shares < 1), lengths.maximum(lengths.roll(1)), lengths)
        return replace(batch, inputs=inputs, lengths=lengths, labels=mix(labels, shares))

    return add


def mix(values: Tensor, shares: np.ndarray, *, keep_power: bool = False) -> Tensor:
    """Row i: shares[i] of itself and the rest of row i - 1; a row of share 1 keeps its bits.

    Args:
        values: float32 [B, ...].
        shares: float64 [B] in [0, 1].
        keep_power: Divide by the root of share ** 2 + (1 - share) ** 2.
    """
    if (shares == 1).all():
        return values
    power = np.sqrt(shares**2 + (1 - shares) ** 2) if keep_power else np.ones(len(shares))
    shape = (-1, *[1] * (values.dim() - 1))
    own, other = (torch.from_numpy(part / power).to(values).view(shape) for part in (shares, 1 - shares))
    return values * own + values.roll(1, 0) * other


def cutmix_boxes(shares: np.ndarray, places: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Boxes of an area of 1 - share whose centre may be anywhere, cut at the border.

    Args:
        shares: float64 [B].
        places: float64 [B, 2] in [0, 1), of the centre, down and across.
        size: Height and width.

    Returns:
        int64 [B, 4]: top, left, height, width.
    """
    full = np.array(size)
    half = (np.sqrt(1 - shares)[:, None] * full).astype(np.int64) // 2
    centre = (places * full).astype(np.int64)
    low, high = np.clip(centre - half, 0, full), np.clip(centre + half, 0, full)
    return np.concatenate([low, high - low], axis=1)


def paste(inputs: Tensor, pictures: Tensor, boxes: np.ndarray) -> Tensor:
    """`inputs` with the box of row i filled from row i - 1 of `pictures`, both [B, ..., H, W]; a new tensor."""
    result = inputs.clone()
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        part = (..., slice(top, top + height), slice(left, left + width))
        result[i][part] = pictures[i - 1][part]
    return result


def _shares(alpha: float, ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """float64 [n] of Beta(alpha, alpha). numpy promises that the numbers of a `RandomState` never change."""
    seeds = [divmod(rng.derive(seed, "share", epoch, i), 2**32) for i in ids.tolist()]
    return np.array([np.random.RandomState(list(words)).beta(alpha, alpha) for words in seeds])
