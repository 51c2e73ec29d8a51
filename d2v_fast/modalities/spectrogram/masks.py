"""Masks of patches on a grid of time and frequency that is as long as the sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from d2v_fast import masking
from d2v_fast.data.stages import MaskMaker
from d2v_fast.masking import Masks
from d2v_fast.masking.config import InverseBlockMask, MaskConfig
from d2v_fast.modalities.frames import spans
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding


def mask_maker(mask: MaskConfig, embedding: SpectrogramEmbedding, seed: int) -> MaskMaker:
    """Masks for inputs [B, frames, bins] and their lengths in frames: blocks of the grid, or spans of time, all bins.

    A mask depends on its sample's own length, so on no other sample of the batch.
    """
    bands, step = embedding.bands, embedding.patch[0]

    def make(inputs: Tensor, lengths: Tensor | None, sample_ids: np.ndarray, epoch: int) -> Masks:
        width = inputs.shape[1] // step
        times = np.full(len(inputs), width) if lengths is None else lengths.numpy() // step
        if isinstance(mask, InverseBlockMask):
            by_view = torch.zeros(len(inputs), mask.views, width * bands, dtype=torch.bool, device="cpu")
            for time in np.unique(times).tolist():
                rows, grid = np.flatnonzero(times == time), (time, bands)
                found = masking.inverse_block_masks(
                    mask, grid, seed=seed, epoch=epoch, sample_ids=sample_ids[rows], views=mask.views
                )
                by_view[torch.from_numpy(rows), :, : time * bands] = found.mask.view(len(rows), mask.views, -1)
            masked = by_view.flatten(0, 1)
        else:
            found = spans(mask, times.tolist(), width, seed=seed, epoch=epoch, sample_ids=sample_ids)
            masked = found.mask.repeat_interleave(bands, dim=1)
        return Masks(masked, masked.flatten().nonzero().flatten(), lengths=times.astype(np.int64) * bands)

    return make
