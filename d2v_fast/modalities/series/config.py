"""Series: how recordings become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d2v_fast.checks import Check
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.scaling import Normalize
from d2v_fast.modalities.windows import WindowInputs


@dataclass(frozen=True, kw_only=True)
class SeriesInputs(WindowInputs):
    """Recordings of many channels: resampled where the file names a rate, normalised whole, then a random window."""

    modality: ClassVar[str] = "series"

    sample_rate: int = 100
    """Hz. Sound files of other rates are resampled; arrays, .npy and Parquet name none and have to have this one."""

    min_seconds: float = 4.0
    """Shorter recordings are left out."""

    max_seconds: float = 20.0
    """Longer recordings give a random window of this length, another one each epoch."""

    normalize: Normalize = "channel"
    """Zero mean and unit variance of each channel over the whole recording, of all channels together, or none."""

    channels: tuple[str, ...] = ()
    """Parquet: the columns that are the channels, in this order; none named: all columns, in the file's order."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        different = all(self.channels) and len(set(self.channels)) == len(self.channels)
        check.require(different, "channels", "names of columns, each once")


@dataclass(frozen=True, kw_only=True)
class SeriesEmbedding(FramesEmbedding):
    """Channels to frames: strided convolutions over time, each with LayerNorm and GELU; positions by convolutions."""

    modality: ClassVar[str] = "series"

    channels: int = 1
    """Channels of a recording."""

    conv_layers: tuple[tuple[int, int, int], ...] = ((64, 10, 5), (128, 4, 4))
    """(channels, kernel, stride) of each convolution."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        check.at_least(1, "channels")
