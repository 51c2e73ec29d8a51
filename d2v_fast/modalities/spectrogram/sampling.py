"""How spectrograms become rows of a batch: windows of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.data.source import DataSource
from d2v_fast.errors import SampleError
from d2v_fast.modalities.long import Entries, LongRows, Moments, Scale, time_axis
from d2v_fast.modalities.scaling import check_whole, lengths, matrix, scale_of, scaled
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.modalities.speech.mel import frame_count, log_mel, samples_of
from d2v_fast.modalities.windows import WindowPlan, WindowSampling


def energies(
    sample: Any, inputs: SpectrogramInputs, embedding: SpectrogramEmbedding, name: str, begin: int | None = None
) -> Tensor:
    """The whole of a sample, not normalised: float32 [frames, bins].

    Args:
        sample: A waveform [samples] at `inputs.sample_rate`, int16 or floating point in [-1, 1], or a matrix
            [frames, bins] or [bins, frames].
        inputs: How sound becomes energies.
        embedding: How many bins there are.
        name: For messages.
        begin: Of a stretch: the entry of the sample that it begins at.

    Raises:
        SampleError: It has another number of bins, gaps, or is nothing of the kind.
    """
    found = as_tensor(sample)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        whole = matrix(found, embedding.bins, name, what="bins")
        check_whole(whole, inputs.frame_rate, name, what="bin", begin=begin)
        return whole
    if found.numel() == 0 or not (found.dtype == torch.int16 or found.is_floating_point()):
        raise SampleError(name, f"is {found.dtype} {list(found.shape)}; a waveform is int16 or floating point")
    wave = found / 32768 if found.dtype == torch.int16 else found.float()
    check_whole(wave[:, None], inputs.sample_rate, name, begin=begin)
    made = log_mel(wave.numpy(), inputs.sample_rate, embedding.bins, inputs.frame_rate)
    return torch.from_numpy(made).float()


def prepared(sample: Any, inputs: SpectrogramInputs, embedding: SpectrogramEmbedding, name: str) -> Tensor:
    """The whole of a sample, normalised: float32 [frames, bins]; see `energies`."""
    return scaled(energies(sample, inputs, embedding, name), inputs.normalize, name)


class SpectrogramSampling(WindowSampling):
    """See `Sampling`.

    Args:
        inputs: How samples become inputs.
        embedding: What the model takes.
        pad: Rows are filled up with zeros to the longest, not cropped to the shortest.
    """

    def __init__(self, inputs: SpectrogramInputs, embedding: SpectrogramEmbedding, *, pad: bool) -> None:
        super().__init__(inputs, inputs.frame_rate, least=inputs.shortest, pad=pad)
        self._inputs, self._embedding = inputs, embedding

    def count(self, sizes: np.ndarray) -> np.ndarray:
        """Frames; `sizes` are shapes of matrices, and (samples, 1) of waveforms."""
        return frames(sizes, self._inputs, self._embedding.bins)

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """float32 [count, frames, bins]."""
        return (count, details.width, self._embedding.bins), torch.float32

    def write(self, out: Tensor, sample: Any, details: WindowPlan, row: int, size: np.ndarray, name: str) -> None:
        """Normalises the spectrogram and writes its window, zeros behind it; see `prepared`."""
        start, length = int(details.starts[row]), int(details.windows[row])
        whole = prepared(sample, self._inputs, self._embedding, name)
        expected = int(self.count(size[None])[0])
        if len(whole) != expected:
            raise SampleError(name, f"has {len(whole)} frames, but the source said {expected}")
        out[:length] = whole[start : start + length]
        out[length:] = 0


def frames(sizes: np.ndarray, inputs: SpectrogramInputs, bins: int) -> np.ndarray:
    """int64 [N], frames of samples of these shapes, int64 [N, 2]; (samples, 1) is a waveform."""
    made = frame_count(sizes[:, 0], inputs.sample_rate, inputs.frame_rate)
    return np.where(sizes[:, 1] == 1, made, lengths(sizes, bins)).astype(np.int64)


def long(source: DataSource, index: int, inputs: SpectrogramInputs, embedding: SpectrogramEmbedding) -> LongRows | None:
    """A long sample, a stretch at a time; a step is a column of patches. None if it fills no patch."""
    size, name, patch = np.asarray(source.sizes)[index], source.name(index), embedding.patch[0]
    sound = int(size[1]) == 1
    length, axis = (int(size[0]), 0) if sound else time_axis(size, embedding.bins)
    entries = Entries(source, index, axis)
    total = int(frames(size[None], inputs, embedding.bins)[0])
    if total < patch:
        return None

    def rows(start: int, count: int) -> Tensor:
        if sound:
            start, most = samples_of(start, count, inputs.sample_rate, inputs.frame_rate)
            found = as_tensor(entries(start, min(most, length - start)))
        else:
            found = as_tensor(entries(start, count))
            found = found.T if axis else found
        made = energies(found, inputs, embedding, name, start)
        if len(made) != count:
            raise SampleError(name, f"gives {len(made)} of {count} frames from {start} on")
        return made

    def scale(moments: Moments) -> Scale:
        mean, deviation, peak = moments.together() if inputs.normalize == "all" else moments.each()
        return scale_of(mean, deviation, peak, inputs.normalize, name)

    return LongRows(total, total // patch, lambda first, count: (first * patch, count * patch), rows, scale)
