"""Speech: how files become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from d2v_fast.checks import Check
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

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "sample_rate")
        check.at_least(0, "min_seconds")
        check.above_zero("max_seconds")
        check.require(self.max_seconds >= self.min_seconds, "max_seconds", f"at least min_seconds, {self.min_seconds}")


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

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        positive = bool(self.conv_layers) and all(min(layer) >= 1 for layer in self.conv_layers)
        check.require(positive, "conv_layers", "a list of (channels, kernel, stride), each at least 1")
        check.at_least(1, "position_depth", "position_kernel", "position_groups")
        check.at_least(0, "gradient_scale")

    def frames(self, samples: Any) -> Any:
        """Frames of `samples` samples (an int, a numpy array or a tensor), 0 or less if the clip is too short."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees: the shortest clip that makes a frame."""
        field = 1
        for _, kernel, stride in reversed(self.conv_layers):
            field = (field - 1) * stride + kernel
        return field
