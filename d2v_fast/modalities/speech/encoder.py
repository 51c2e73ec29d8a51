"""Speech: waveform, convolutions, position convolutions, context network (paper, section 4.2)."""

from __future__ import annotations

from torch import Tensor

from d2v_fast.modalities.frames import FramesEncoder
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import require_floating


class SpeechEncoder(FramesEncoder):
    """Waveform float32 [B, samples] to [B, T, C]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, channels=1)

    def embed(self, inputs: Tensor) -> Tensor:
        """Waveforms to frames; see `Encoder.embed`."""
        require_floating(inputs, "waveforms [B, samples]", 2)
        return self.frames(inputs.unsqueeze(2))
