"""How spectrograms become rows of a batch: windows of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.errors import SampleError
from d2v_fast.modalities.scaling import check_whole, lengths, matrix, scaled
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.modalities.speech.mel import frame_count, log_mel
from d2v_fast.modalities.windows import WindowPlan, WindowSampling


def energies(sample: Any, inputs: SpectrogramInputs, embedding: SpectrogramEmbedding, name: str) -> Tensor:
    """The whole of a sample, not normalised: float32 [frames, bins].

    Args:
        sample: A waveform [samples] at `inputs.sample_rate`, int16 or floating point in [-1, 1], or a matrix
            [frames, bins] or [bins, frames].
        inputs: How sound becomes energies.
        embedding: How many bins there are.
        name: For messages.

    Raises:
        SampleError: It has another number of bins, gaps, or is nothing of the kind.
    """
    found = as_tensor(sample)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        whole = matrix(found, embedding.bins, name, what="bins")
        check_whole(whole, inputs.frame_rate, name, what="bin")
        return whole
    if found.numel() == 0 or not (found.dtype == torch.int16 or found.is_floating_point()):
        raise SampleError(name, f"is {found.dtype} {list(found.shape)}; a waveform is int16 or floating point")
    wave = found / 32768 if found.dtype == torch.int16 else found.float()
    check_whole(wave[:, None], inputs.sample_rate, name)
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
