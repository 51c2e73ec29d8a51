"""Clips to be looked at: the waveform with the window that is used, and the window's spectrogram with its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from d2v_fast.batch import Batch
from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import MOST_VIEWS, Drawing, Row, Spectrogram, Waveform, of_views
from d2v_fast.modalities.signals import shown
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.mel import log_mel
from d2v_fast.modalities.windows import plan_windows
from d2v_fast.models import token_count

if TYPE_CHECKING:
    from d2v_fast.config import Config

MOST = 3
"""Clips that are drawn."""


def draw(source: DataSource, config: Config, batch: Batch) -> Drawing:
    """The first clips of a batch.

    Args:
        source: Where the batch is from.
        config: Its inputs and seed.
        batch: Of epoch 0, with masks.

    Raises:
        SampleError: A clip cannot be read again.
    """
    assert batch.mask is not None
    inputs = cast(SpeechInputs, config.inputs)
    ids, rate = batch.sample_ids.numpy()[:MOST], inputs.sample_rate
    valid = [batch.inputs.shape[1]] * len(ids) if batch.lengths is None else batch.lengths.tolist()
    rows, masked, all_frames = [], 0, 0
    for i, sample in enumerate(ids.tolist()):
        length = valid[i]
        raw = torch.as_tensor(source.read(sample), device="cpu")
        whole = (raw / 32768 if raw.dtype == torch.int16 else raw.float()).numpy()
        start = int(plan_windows(np.array([len(whole)]), ids[i : i + 1], np.array([length]), config.seed, 0).starts[0])
        name, seconds = source.name(sample), len(whole) / rate
        title = f"{shown(name)} ({seconds:.1f} s, framed: the window)"
        frames = int(token_count(config.model, length))
        masks = batch.mask[i * batch.views : (i + 1) * batch.views, :frames].numpy()
        masked, all_frames = masked + int(masks.sum()), all_frames + masks.size
        energies = log_mel(batch.inputs[i, :length].numpy(), rate).T
        rows.append(Row(panels=(Waveform(samples=whole, rate=rate, title=title, window=(start, length)),)))
        for mask in masks[:MOST_VIEWS]:
            seen = Spectrogram(energies=energies, seconds=length / rate, time="seconds of the window", mask=mask)
            rows.append(Row(panels=(seen,)))
    share = f"{masked / max(1, all_frames):.0%} of the frames masked (grey)"
    return Drawing(title=share + of_views(batch.views), rows=tuple(rows))
