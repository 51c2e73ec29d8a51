"""Masks in time and channels while a recogniser is fine-tuned: SpecAugment on the local features (wav2vec 2.0, 4.4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from d2v_fast import rng
from d2v_fast.masking import SpanMask, span_masks

_ROWS = 1 << 20
"""More than a micro-batch has: rows of different micro-batches of a step have different numbers."""


def time_mask(
    config: SpanMask, frames: Tensor | None, shape: tuple[int, int], seed: int, step: int, micro_batch: int
) -> Tensor | None:
    """Spans of frames, drawn anew in every step.

    Args:
        config: Probability and length of the spans; a probability of 0 masks nothing.
        frames: int64 [B] on the CPU, valid frames; None: all.
        shape: B and T.
        seed: Of the run.
        step: The optimizer step.
        micro_batch: Of the step.

    Returns:
        bool [B, T] on the CPU, padding never masked; None if nothing is.
    """
    return _spans(config, frames, shape, rng.derive(seed, "time mask"), step, micro_batch)


def channel_mask(config: SpanMask, shape: tuple[int, int], seed: int, step: int, micro_batch: int) -> Tensor | None:
    """The same over channels, which are masked in all frames of a sample: bool [B, C]."""
    return _spans(config, None, shape, rng.derive(seed, "channel mask"), step, micro_batch)


def hide(local: Tensor, time: Tensor | None, channels: Tensor | None, token: Tensor) -> Tensor:
    """Replaces masked frames by the mask token, then masked channels by 0, as released.

    Args:
        local: [B, T, C], local features.
        time: bool [B, T].
        channels: bool [B, C].
        token: [C], the mask token.
    """
    if time is not None:
        local = torch.where(time.to(local.device, non_blocking=True)[:, :, None], token.to(local.dtype), local)
    if channels is not None:
        local = local.masked_fill(channels.to(local.device, non_blocking=True)[:, None, :], 0.0)
    return local


def _spans(
    config: SpanMask, lengths: Tensor | None, shape: tuple[int, int], seed: int, step: int, micro_batch: int
) -> Tensor | None:
    if config.probability == 0 and config.min_spans == 0:
        return None
    count, width = shape
    ids = np.arange(count, dtype=np.int64) + micro_batch * _ROWS
    valid = [width] * count if lengths is None else lengths
    return span_masks(config, valid, width=width, seed=seed, epoch=step, sample_ids=ids).mask
