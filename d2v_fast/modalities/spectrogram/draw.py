"""Spectrograms to be looked at: all of a clip, and the window that is used with its masked patches."""

from __future__ import annotations

from typing import cast

import numpy as np

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import Drawing, Row, Spectrogram
from d2v_fast.modalities.signals import shown
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.modalities.spectrogram.sampling import prepared
from d2v_fast.modalities.windows import plan_windows

MOST = 3
"""Clips that are drawn."""


def draw(source: DataSource, config: Config, batch: Batch) -> Drawing:
    """The first clips of a batch of epoch 0, with masks.

    Raises:
        SampleError: A clip cannot be read again.
    """
    assert batch.mask is not None
    inputs, embedding = cast(SpectrogramInputs, config.inputs), cast(SpectrogramEmbedding, config.model.embedding)
    ids, rate = batch.sample_ids.numpy()[:MOST], inputs.frame_rate
    valid = [batch.inputs.shape[1]] * len(ids) if batch.lengths is None else batch.lengths.tolist()
    rows, masked, all_patches = [], 0, 0
    for i, sample in enumerate(ids.tolist()):
        name, tokens = source.name(sample), int(embedding.tokens(valid[i]))
        whole = prepared(source.read(sample), inputs, embedding, name)
        plan = plan_windows(np.array([len(whole)]), ids[i : i + 1], np.array([valid[i]]), config.seed, 0)
        length = tokens // embedding.bands * embedding.patch[0]  # what is left behind the last patch is not seen
        start, seconds = int(plan.starts[0]) / rate, length / rate
        mask = batch.mask[i * batch.views, :tokens].view(-1, embedding.bands).T.numpy()
        masked, all_patches = masked + int(mask.sum()), all_patches + tokens
        stored = Spectrogram(
            energies=whole.T.numpy(),
            seconds=len(whole) / rate,
            title=f"{shown(name)} ({len(whole) / rate:.1f} s; the window: {start:.2f} to {start + seconds:.2f} s)",
        )
        seen = Spectrogram(
            energies=batch.inputs[i, :length].T.numpy(), seconds=seconds, time="seconds of the window", mask=mask
        )
        rows += [Row(panels=(stored,)), Row(panels=(seen,))]
    shape = f"{embedding.patch[0]} frames x {embedding.patch[1]} bins"
    return Drawing(title=f"{masked / max(1, all_patches):.0%} of the patches ({shape}) masked", rows=tuple(rows))
