"""A whole clip as the encoder wants it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.source import DataSource
from d2v_fast.errors import SampleError
from d2v_fast.modalities.long import Entries, LongRows, Moments, Scale, reach_of
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.speech.transforms import EPS, clip_into, waveform


def prepare(clip: np.ndarray | Tensor, inputs: SpeechInputs, embedding: SpeechEmbedding, name: str) -> Tensor:
    """Normalises a clip, and cuts what no frame looks at: less than a stride, at the end.

    Args:
        clip: [samples] at `inputs.sample_rate`, int16 or floating point in [-1, 1].
        inputs: How files become inputs.
        embedding: Says what a frame is.
        name: For messages.

    Returns:
        float32 [samples].

    Raises:
        SampleError: It has another shape or number format, samples that are not finite, or is too short for a frame.
    """
    if clip.ndim == 1 and len(clip) < (least := embedding.receptive_field):
        raise SampleError(name, f"has {len(clip)} samples; the first frame of this model needs {least}")
    out = torch.empty(len(clip), dtype=torch.float32, device="cpu")
    clip_into(out, clip, 0, len(clip), normalize=inputs.normalize, name=name)
    return out[: embedding.seen(len(clip))]


def long(source: DataSource, index: int, inputs: SpeechInputs, embedding: SpeechEmbedding) -> LongRows | None:
    """A long clip, a stretch at a time; None if it makes no frame."""
    size, name, entries = int(source.sizes[index]), source.name(index), Entries(source, index)
    if (steps := int(embedding.frames(size))) < 1:
        return None

    def rows(start: int, count: int) -> Tensor:
        return waveform(entries(start, count), count, name)[:, None]

    def scale(moments: Moments) -> Scale:
        if not inputs.normalize:
            return lambda found: found
        mean, factor = moments.mean, (moments.deviation.square() + EPS).rsqrt()
        return lambda found: ((found.double() - mean) * factor).float()

    return LongRows(size, steps, reach_of(embedding), rows, scale, lambda found: found[:, 0])
