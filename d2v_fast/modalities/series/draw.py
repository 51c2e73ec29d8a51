"""Recordings to be looked at: all channels with the window that is used, and the window with its masked spans."""

from __future__ import annotations

from typing import cast

import numpy as np

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import MOST_VIEWS, Drawing, Row, Waveform, of_views
from d2v_fast.modalities.series.config import SeriesEmbedding, SeriesInputs
from d2v_fast.modalities.series.sampling import prepared
from d2v_fast.modalities.signals import shown
from d2v_fast.modalities.windows import plan_windows

MOST = 3
"""Recordings that are drawn."""

CHANNELS = 8
"""Channels of each that are drawn."""


def draw(source: DataSource, config: Config, batch: Batch) -> Drawing:
    """The first recordings of a batch of epoch 0, with masks.

    Raises:
        SampleError: A recording cannot be read again.
    """
    assert batch.mask is not None
    inputs, embedding = cast(SeriesInputs, config.inputs), cast(SeriesEmbedding, config.model.embedding)
    ids, rate = batch.sample_ids.numpy()[:MOST], inputs.sample_rate
    valid = [batch.inputs.shape[1]] * len(ids) if batch.lengths is None else batch.lengths.tolist()
    rows, masked, all_frames = [], 0, 0
    for i, sample in enumerate(ids.tolist()):
        name, length = source.name(sample), valid[i]
        whole = prepared(source.read(sample), inputs, embedding.channels, name)
        plan = plan_windows(np.array([len(whole)]), ids[i : i + 1], np.array([length]), config.seed, 0)
        frames = int(embedding.frames(length))
        masks = batch.mask[i * batch.views : (i + 1) * batch.views, :frames].numpy()
        masked, all_frames = masked + int(masks.sum()), all_frames + masks.size
        rest = f", {CHANNELS} of {embedding.channels} channels" if embedding.channels > CHANNELS else ""
        title = f"{shown(name)} ({len(whole) / rate:.1f} s{rest}, framed: the window)"
        window = (int(plan.starts[0]), length)
        stored = Waveform(samples=whole.T[:CHANNELS].numpy(), rate=rate, title=title, window=window)
        samples, title = batch.inputs[i, :length].T[:CHANNELS].numpy(), "the window; grey: masked"
        seen = [Waveform(samples=samples, rate=rate, title=title, mask=mask) for mask in masks[:MOST_VIEWS]]
        rows += [Row(panels=(panel,)) for panel in (stored, *seen)]
    share = f"{masked / max(1, all_frames):.0%} of the frames masked (grey)"
    return Drawing(title=share + of_views(batch.views), rows=tuple(rows))
