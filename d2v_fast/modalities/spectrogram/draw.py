"""Spectrograms to be looked at: all of a clip, and the window that is used with its masked patches."""

from __future__ import annotations

from typing import cast

import numpy as np

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import MOST_VIEWS, Drawing, Row, Spectrogram, of_views
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
        masks = batch.mask[i * batch.views : (i + 1) * batch.views, :tokens].numpy()
        masked, all_patches = masked + int(masks.sum()), all_patches + masks.size
        stored = Spectrogram(
            energies=whole.T.numpy(),
            seconds=len(whole) / rate,
            title=f"{shown(name)} ({len(whole) / rate:.1f} s; the window: {start:.2f} to {start + seconds:.2f} s)",
        )
        energies, time = batch.inputs[i, :length].T.numpy(), "seconds of the window"
        grids = masks[:MOST_VIEWS].reshape(-1, tokens // embedding.bands, embedding.bands).transpose(0, 2, 1)
        seen = [Spectrogram(energies=energies, seconds=seconds, time=time, mask=mask) for mask in grids]
        rows += [Row(panels=(panel,)) for panel in (stored, *seen)]
    shape = f"{embedding.patch[0]} frames x {embedding.patch[1]} bins"
    share = f"{masked / max(1, all_patches):.0%} of the patches ({shape}) masked"
    return Drawing(title=share + of_views(batch.views), rows=tuple(rows))
