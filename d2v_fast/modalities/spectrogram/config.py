"""Spectrograms: how sound and matrices become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from d2v_fast.checks import Check
from d2v_fast.modalities.scaling import Normalize
from d2v_fast.modalities.speech.mel import frame_count
from d2v_fast.modalities.windows import WindowInputs
from d2v_fast.models.config import EmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class SpectrogramInputs(WindowInputs):
    """Sound becomes log-mel energies, matrices are taken as they are; normalised whole, then a random window."""

    modality: ClassVar[str] = "spectrogram"

    min_seconds: float = 1.0
    """Shorter clips are left out."""

    max_seconds: float = 10.0
    """Longer clips give a random window of this length, another one each epoch."""

    frame_rate: float = 100.0
    """Frames in a second: of the energies that are made of sound (windows of 25 ms), and of matrices that are given."""

    normalize: Normalize = "all"
    """Zero mean and unit variance over the whole clip, of each bin (channel) over time, or none."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        check.above_zero("frame_rate")
        check.require(self.frame_rate <= self.sample_rate, "frame_rate", f"at most sample_rate, {self.sample_rate}")

    @property
    def shortest(self) -> int:
        """Frames of sound of `min_seconds`: a little fewer than of a matrix, as the last one needs its whole window."""
        return max(1, int(frame_count(round(self.min_seconds * self.sample_rate), self.sample_rate, self.frame_rate)))


@dataclass(frozen=True, kw_only=True)
class SpectrogramEmbedding(EmbeddingConfig):
    """Frames and bins to patches: one strided convolution, a class token, fixed sine-cosine positions."""

    modality: ClassVar[str] = "spectrogram"

    bins: int = 80
    """Mel bands that are made of sound, or bins of the matrices that are given."""

    patch: tuple[int, int] = (16, 16)
    """Frames and bins of a patch."""

    max_frames: int = 1024
    """Frames of the longest input; positions are made for so many."""

    warp: float = 0.0
    """In training the bins of each sample are stretched by a factor between exp(-warp) and exp(warp), as another throat
    would (Jaitly and Hinton, 2013). A teacher with an embedding of its own sees them as they are. 0: they are not."""

    @property
    def class_token(self) -> bool:
        """See `EmbeddingConfig.class_token`."""
        return True

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(2, "bins")
        check.require(min(self.patch) >= 1, "patch", "two numbers of at least 1: frames and bins")
        whole = self.bins % self.patch[1] == 0
        check.require(whole, "bins", f"a multiple of the bins of {check.name}.patch, which are {self.patch[1]}")
        check.at_least(self.patch[0], "max_frames")
        check.require(0 <= self.warp < 1, "warp", "at least 0 and below 1")

    @property
    def bands(self) -> int:
        """Patches above each other."""
        return self.bins // self.patch[1]

    def tokens(self, frames: Any) -> Any:
        """Patches of `frames` frames (an int, an array or a tensor); what is left at the end, less than one, is cut."""
        return frames // self.patch[0] * self.bands
