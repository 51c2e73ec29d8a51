"""Speech: how files become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d2v_fast.data.config import InputsConfig
from d2v_fast.models.config import EmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class SpeechInputs(InputsConfig):
    """Audio clips: resampled, normalised whole, then a random window (data2vec.md 1.10)."""

    modality: ClassVar[str] = "speech"

    sample_rate: int = 16000
    """Hz; other rates are resampled by soxr."""

    min_seconds: float = 2.0
    """Shorter clips are left out."""

    max_seconds: float = 20.0
    """Longer clips give a random window of this length, another one each epoch."""

    normalize: bool = True
    """Zero mean and unit variance over the whole clip."""


@dataclass(frozen=True, kw_only=True)
class SpeechEmbedding(EmbeddingConfig):
    """Waveform to frames: strided convolutions, each with LayerNorm and GELU; positions by a stack of convolutions."""

    modality: ClassVar[str] = "speech"

    conv_layers: tuple[tuple[int, int, int], ...] = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)
    """(channels, kernel, stride) of each convolution."""

    position_depth: int = 5
    """Convolutions in the position encoder."""

    position_kernel: int = 19
    """Frames that each of them sees."""

    position_groups: int = 16
    """Groups of each of them."""

    gradient_scale: float = 1.0
    """Factor on the gradient that reaches the convolutions."""
