"""Speech: how files become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.modalities.windows import WindowInputs


@dataclass(frozen=True, kw_only=True)
class SpeechInputs(WindowInputs):
    """Audio clips: resampled, normalised whole, then a random window (data2vec.md 1.10)."""

    modality: ClassVar[str] = "speech"

    normalize: bool = True
    """Zero mean and unit variance over the whole clip."""


@dataclass(frozen=True, kw_only=True)
class SpeechEmbedding(FramesEmbedding):
    """Waveform to frames: strided convolutions, each with LayerNorm and GELU; positions by a stack of convolutions."""

    modality: ClassVar[str] = "speech"
