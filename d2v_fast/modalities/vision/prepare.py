"""A whole picture as the encoder wants it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.modalities.vision.transforms import picture_into


def prepare(picture: np.ndarray | Tensor, inputs: VisionInputs, embedding: VisionEmbedding, name: str) -> Tensor:
    """Resizes the whole picture to the model's input and standardises it; grey and colour are converted as in a run.

    Args:
        picture: uint8, an array [H, W] or [H, W, channels] or a tensor [H, W] or [channels, H, W].
        inputs: Statistics of the channels.
        embedding: Size and channels of the model's input.
        name: For messages.

    Returns:
        float32 [channels, S, S].

    Raises:
        SampleError: It has another shape or number format, or channels that cannot be converted.
    """
    planar = isinstance(picture, Tensor) and picture.ndim == 3
    size = np.array(picture.shape[1:] if planar else picture.shape[:2])
    shape = (embedding.channels, embedding.image_size, embedding.image_size)
    out = torch.empty(shape, dtype=torch.float32, device="cpu")
    box = np.concatenate([np.zeros_like(size), size])
    still = replace(inputs, jitter=0.0)
    picture_into(out, picture, box, False, np.ones(3, np.float32), size, still, name)
    return out
