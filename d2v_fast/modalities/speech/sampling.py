"""How clips become rows of a batch: windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.transforms import clip_into
from d2v_fast.modalities.windows import WindowPlan, WindowSampling


class ClipSampling(WindowSampling):
    """See `Sampling`.

    Args:
        inputs: How files become inputs.
        pad: Rows are filled up with silence to the longest, not cropped to the shortest.
    """

    def __init__(self, inputs: SpeechInputs, *, pad: bool) -> None:
        super().__init__(inputs, inputs.sample_rate, pad=pad)
        self._normalize = inputs.normalize

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """float32 [count, samples]."""
        return (count, details.width), torch.float32

    def write(self, out: Tensor, sample: Any, details: WindowPlan, row: int, size: np.ndarray, name: str) -> None:
        """Normalises the clip and writes its window, silence behind it; see `clip_into`."""
        start, length = int(details.starts[row]), int(details.windows[row])
        clip_into(out[:length], sample, start, int(size), normalize=self._normalize, name=name)
        out[length:] = 0
