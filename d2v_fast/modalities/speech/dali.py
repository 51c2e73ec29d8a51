"""Clips in DALI's graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import soundfile
from nvidia.dali.types import DALIDataType

from d2v_fast.data.engines.dali_graph import Sample, external, put_on
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.dali_screen import is_plain_clip
from d2v_fast.modalities.windows import WindowPlan


class ClipGraph:
    """See `DaliGraph`.

    Args:
        inputs: How files become inputs.
    """

    def __init__(self, inputs: SpeechInputs) -> None:
        self._inputs = inputs

    def define(self, *, gpu: bool) -> Any:
        """The output node; clips are always decoded on the CPU."""
        return _clips(self._inputs, put_on(gpu))

    def example(self) -> Sample:
        """A few samples of sound."""
        file = BytesIO()
        soundfile.write(file, np.arange(8, dtype=np.int16), self._inputs.sample_rate, format="WAV")
        return clip(np.frombuffer(file.getvalue(), np.uint8), 0, 8)

    def feed(self, encoded: bytes, details: WindowPlan, row: int, size: np.ndarray) -> Sample | None:
        """The file's bytes and its window."""
        start, length = int(details.starts[row]), int(details.windows[row])
        padded = length < details.width and start + length == int(size)
        if not is_plain_clip(encoded, int(size), self._inputs.sample_rate) or not (padded or length == details.width):
            return None
        return clip(np.frombuffer(encoded, np.uint8), start, details.width)


def clip(encoded: np.ndarray, start: int, length: int) -> Sample:
    """What the graph of clips is fed: the file's bytes, uint8 [N], and a window; zeros lie behind the clip's end."""
    numbers = {"start": start, "length": length}
    return {"encoded": encoded} | {name: np.array([value], np.int32) for name, value in numbers.items()}


def _clips(inputs: SpeechInputs, put: Callable[[Any], Any]) -> Any:
    encoded, window = external("encoded", DALIDataType.UINT8, 1), partial(external, dtype=DALIDataType.INT32, ndim=1)
    wave, _ = fn.decoders.audio(encoded, dtype=DALIDataType.FLOAT, downmix=True)
    wave = put(wave)
    if inputs.normalize:
        wave = fn.normalize(wave, axes=[0], epsilon=1e-5)
    return fn.slice(wave, window("start"), window("length"), axes=[0], out_of_bounds_policy="pad", fill_values=0.0)
