"""Stages: what is added to a batch when its inputs are there, in the thread that finished it: masks, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.errors import DataError
from d2v_fast.masking import Masks

Stage = Callable[[Batch, int], Batch]
"""(a batch on the host, the epoch that it was planned for) -> the same batch with more in it."""

MaskMaker = Callable[[Tensor, Tensor | None, np.ndarray, int], Masks]
"""(inputs [B, ...], lengths int64 [B] or None, sample ids int64 [B], epoch) -> the masks of a batch."""


def mask_stage(make: MaskMaker, *, keep: bool = False) -> Stage:
    """A stage that adds masks.

    Args:
        make: The masks of a batch.
        keep: Add the positions that are not masked too: the model encodes no others.
    """

    def add(batch: Batch, epoch: int) -> Batch:
        masks = make(batch.inputs, batch.lengths, batch.sample_ids.numpy(), epoch)
        views = len(masks.mask) // len(batch.sample_ids)
        kept = masks.kept if keep else None
        return replace(batch, mask=masks.mask, rows=masks.rows, views=views, masked_inputs=masks.inputs, kept=kept)

    return add


def label_stage(labels: Tensor, lengths: Tensor | None = None) -> Stage:
    """A stage that adds labels.

    Args:
        labels: [N, ...], one entry for each sample of the data source.
        lengths: int64 [N], valid labels of each entry, where they are sequences.
    """

    def add(batch: Batch, epoch: int) -> Batch:
        ids = batch.sample_ids
        if len(ids) and int(ids.max()) >= len(labels):
            raise DataError(f"there are labels for {len(labels)} samples, but the data has a sample {int(ids.max())}")
        return replace(batch, labels=labels[ids], label_lengths=None if lengths is None else lengths[ids])

    return add
