"""Long samples over time, read a stretch at a time: what a modality says about them, and what its rooms share."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.source import DataSource
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.scaling import is_transposed

PIECE = 1 << 20
"""Numbers that are read at a time where the whole of a sample has to be looked at once."""


@dataclass(frozen=True)
class Timing:
    """How the tokens of a modality lie in time. A step is what makes the tokens of one moment."""

    longest: int
    """Steps of the longest input that training has."""

    seconds: float | None = None
    """From one step to the next; None where there is no time, as in text."""

    tokens: int = 1
    """Tokens of a step: the patches above each other."""

    most: int | None = None
    """Steps of the longest input that the model can take; None: no such limit."""

    overlap: int = 0
    """The least overlap of two windows, in steps, where what a window adds at its ends is no part of the sample."""


class Long(Protocol):
    """A sample that is longer than the inputs of the model. Called from several threads."""

    steps: int
    """Of the whole sample."""

    def read(self, first: int, count: int) -> Tensor:
        """The input that makes the tokens of the steps [first, first + count), without a batch dimension.

        It is prepared as that of the whole sample: a scale is that of the whole. Only what is needed is read, where
        the source allows that.

        Raises:
            SampleError: It cannot be read or used.
        """
        ...


class Entries:
    """The entries of a sample over time, a stretch at a time.

    A source may have `part(index, start, count, axis)`, which gives the entries [start, start + count) of `read(index)`
    along an axis, or None where its format allows no such thing. Without it the sample is read whole once, and kept.

    Args:
        source: Where the sample is.
        index: Its number.
        axis: Of what `source.read` gives, along which time goes.
    """

    def __init__(self, source: DataSource, index: int, axis: int = 0) -> None:
        self._source: Any = source
        self._index, self._axis = index, axis
        self._whole: Any = None
        self._lock = threading.Lock()

    def __call__(self, start: int, count: int) -> Any:
        """The entries [start, start + count), as the source gives them.

        Raises:
            SampleError: They cannot be read.
        """
        if self._whole is None:
            part = getattr(self._source, "part", None)
            found = None if part is None else part(self._index, start, count, self._axis)
            if found is not None:
                return found
            with self._lock:
                if self._whole is None:
                    self._whole = self._source.read(self._index)
        return self._whole[(slice(None),) * self._axis + (slice(start, start + count),)]


class Moments:
    """Mean and deviation of what comes piece by piece, in float64 (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.peak: Any = 0.0
        self._squares: Any = 0.0

    def add(self, piece: Tensor) -> None:
        """Takes a piece, float32 [n, channels]."""
        values = piece.double()
        n, mean = len(values), values.mean(0)
        off = mean - self.mean
        total = self.count + n
        self._squares = (
            self._squares + (values - mean).square().sum(0) + off.square() * (self.count * n / max(1, total))
        )
        self.mean = self.mean + off * (n / total)
        self.peak = torch.maximum(torch.as_tensor(self.peak, dtype=torch.float64), values.abs().amax(0))
        self.count = total

    @property
    def deviation(self) -> Tensor:
        """Biased, float64 [channels]."""
        found: Tensor = (self._squares / max(1, self.count)).sqrt()
        return found

    def each(self) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, deviation, peak) of each channel, float64 [channels]."""
        return self.mean, self.deviation, self.peak

    def together(self) -> tuple[Tensor, Tensor, Tensor]:
        """(mean, deviation, peak) of all channels together, float64 []."""
        mean = self.mean.mean()
        spread = (self.deviation.square() + (self.mean - mean).square()).mean().sqrt()
        return mean, spread, self.peak.max()


Scale = Callable[[Tensor], Tensor]
"""Normalises a stretch as the whole sample is."""


class LongRows:
    """A long sample whose input is rows [entries, channels], normalised by the whole; see `Long`.

    Args:
        length: Entries.
        steps: Of the whole.
        reach: (first, count) -> the first entry and the entries that these steps need.
        rows: (start, count) -> float32 [count, channels], not normalised.
        scale: Makes the normalisation of the moments of all entries.
        finish: Makes the input of normalised rows.
    """

    def __init__(
        self,
        length: int,
        steps: int,
        reach: Callable[[int, int], tuple[int, int]],
        rows: Callable[[int, int], Tensor],
        scale: Callable[[Moments], Scale],
        finish: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> None:
        self.steps = steps
        self._length, self._reach, self._rows, self._make, self._finish = length, reach, rows, scale, finish
        self._scale: Scale | None = None
        self._lock = threading.Lock()

    def read(self, first: int, count: int) -> Tensor:
        """See `Long.read`; the first call reads all of the sample once, for its scale."""
        with self._lock:
            if self._scale is None:
                self._scale = self._measured()
        return self._finish(self._scale(self._rows(*self._reach(first, count))))

    def _measured(self) -> Scale:
        moments = Moments()
        width = self._rows(0, 1).shape[1]
        piece = max(1, PIECE // width)
        for start in range(0, self._length, piece):
            moments.add(self._rows(start, min(piece, self._length - start)))
        return self._make(moments)


def reach_of(embedding: FramesEmbedding) -> Callable[[int, int], tuple[int, int]]:
    """Which samples frames look at: (first frame, frames) -> (first sample, samples)."""
    stride = math.prod(stride for _, _, stride in embedding.conv_layers)
    return lambda first, count: (first * stride, embedding.samples(count))


def frame_timing(embedding: FramesEmbedding, seconds: float, rate: int) -> Timing:
    """The timing of frames by convolutions.

    Args:
        embedding: Says what a frame is.
        seconds: Of the longest input of training.
        rate: Samples in a second.
    """
    stride = math.prod(stride for _, _, stride in embedding.conv_layers)
    return Timing(max(1, int(embedding.frames(round(seconds * rate)))), stride / rate)


def time_axis(size: np.ndarray, channels: int) -> tuple[int, int]:
    """(entries over time, axis of time) of a matrix of this shape, int64 [2]."""
    rows, columns = (int(part) for part in size)
    return (columns, 1) if is_transposed((rows, columns), channels) else (rows, 0)
