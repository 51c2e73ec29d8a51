"""A whole clip as the encoder wants it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from d2v_fast.errors import SampleError
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.speech.transforms import clip_into


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
