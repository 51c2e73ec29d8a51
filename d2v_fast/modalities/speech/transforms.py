"""From a clip as it was read, and its plan, to what the model sees."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.errors import SampleError

LOUDEST = 1e15
"""Squares of larger samples, summed over a clip, are no float32."""

EPS = 1e-5
"""Added to the variance of a clip."""


def clip_into(out: Tensor, clip: np.ndarray | Tensor, start: int, size: int, *, normalize: bool, name: str) -> None:
    """Normalises a whole clip and writes a window of it to `out` (data2vec.md 1.10: in this order).

    Args:
        out: float32 [length], the window.
        clip: [size], int16 or floating point.
        start: First sample of the window.
        size: Length that the plan counted on.
        normalize: Zero mean, unit (biased) variance, eps 1e-5.
        name: For messages.

    Raises:
        SampleError: A clip of another length or number format, or with samples that are not finite, or so large
            that their variance is not.
    """
    wave = waveform(clip, size, name)
    if normalize:
        wave = F.layer_norm(wave, wave.shape, eps=EPS)
    out.copy_(wave[start : start + len(out)])


def waveform(clip: np.ndarray | Tensor, size: int, name: str) -> Tensor:
    """A clip, or a stretch of one, as float32 [size], not normalised.

    Args:
        clip: [size], int16 or floating point.
        size: Length that is counted on.
        name: For messages.

    Raises:
        SampleError: See `clip_into`.
    """
    raw = as_tensor(clip)
    if raw.ndim != 1 or not (raw.dtype == torch.int16 or raw.is_floating_point()):
        raise SampleError(name, f"is {raw.dtype} {list(raw.shape)}; a clip is one-dimensional, int16 or floating point")
    if len(raw) != size:
        raise SampleError(name, f"has {len(raw)} samples, but the source said {size}")
    wave = raw / 32768 if raw.dtype == torch.int16 else raw.float()
    if raw.is_floating_point():
        peak = float(wave.abs().max())
        if not math.isfinite(peak):
            raise SampleError(name, "has samples that are not finite numbers, or are too large for float32")
        if peak > LOUDEST:
            raise SampleError(
                name, f"has samples of up to {peak:.3g}, whose variance overflows; they should lie in [-1, 1]"
            )
    return wave
