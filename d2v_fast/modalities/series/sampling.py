"""How recordings become rows of a batch: windows of all channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.data.source import DataSource
from d2v_fast.errors import SampleError
from d2v_fast.modalities.long import Entries, LongRows, Moments, Scale, reach_of, time_axis
from d2v_fast.modalities.scaling import check_whole, lengths, matrix, scale_of, scaled
from d2v_fast.modalities.series.config import SeriesEmbedding, SeriesInputs
from d2v_fast.modalities.windows import WindowPlan, WindowSampling


def prepared(sample: Any, inputs: SeriesInputs, channels: int, name: str) -> Tensor:
    """A whole recording, normalised: float32 [samples, channels].

    Raises:
        SampleError: It lacks channels, has gaps, or is no matrix of numbers.
    """
    found = matrix(sample, channels, name)
    check_whole(found, inputs.sample_rate, name)
    return scaled(found, inputs.normalize, name)


class SeriesSampling(WindowSampling):
    """See `Sampling`.

    Args:
        inputs: How recordings become inputs.
        channels: Of the model.
        pad: Rows are filled up with zeros to the longest, not cropped to the shortest.
    """

    def __init__(self, inputs: SeriesInputs, channels: int, *, pad: bool) -> None:
        super().__init__(inputs, inputs.sample_rate, pad=pad)
        self._inputs, self._channels = inputs, channels

    def count(self, sizes: np.ndarray) -> np.ndarray:
        """Samples over time; `sizes` are shapes."""
        return lengths(sizes, self._channels)

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """float32 [count, samples, channels]."""
        return (count, details.width, self._channels), torch.float32

    def write(self, out: Tensor, sample: Any, details: WindowPlan, row: int, size: np.ndarray, name: str) -> None:
        """Normalises the recording and writes its window, zeros behind it; see `prepared`."""
        start, length = int(details.starts[row]), int(details.windows[row])
        whole = prepared(sample, self._inputs, self._channels, name)
        if len(whole) != int(self.count(size[None])[0]):
            raise SampleError(name, f"has {len(whole)} samples, but the source said {size.tolist()}")
        out[:length] = whole[start : start + length]
        out[length:] = 0


def long(source: DataSource, index: int, inputs: SeriesInputs, embedding: SeriesEmbedding) -> LongRows | None:
    """A long recording, a stretch at a time; None if it makes no frame."""
    name, channels = source.name(index), embedding.channels
    length, axis = time_axis(source.sizes[index], channels)
    entries = Entries(source, index, axis)
    if (steps := int(embedding.frames(length))) < 1:
        return None

    def rows(start: int, count: int) -> Tensor:
        found = as_tensor(entries(start, count))
        whole = matrix(found.T if axis and found.ndim == 2 else found, channels, name)
        if len(whole) != count:
            raise SampleError(name, f"gives {len(whole)} of {count} samples from {start} on")
        check_whole(whole, inputs.sample_rate, name, begin=start)
        return whole

    def scale(moments: Moments) -> Scale:
        mean, deviation, peak = moments.together() if inputs.normalize == "all" else moments.each()
        return scale_of(mean, deviation, peak, inputs.normalize, name)

    return LongRows(length, steps, reach_of(embedding), rows, scale)
