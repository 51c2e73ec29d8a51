"""Series: convolutions over all channels, position convolutions, context network."""

from __future__ import annotations

from torch import Tensor

from d2v_fast.modalities.frames import FramesEncoder
from d2v_fast.modalities.series.config import SeriesEmbedding
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import require_floating


class SeriesEncoder(FramesEncoder):
    """Recordings float32 [B, samples, channels] to [B, T, C]."""

    def __init__(self, config: ModelConfig) -> None:
        assert isinstance(config.embedding, SeriesEmbedding)
        super().__init__(config, config.embedding.channels)
        self.channels = config.embedding.channels

    def embed(self, inputs: Tensor) -> Tensor:
        """Recordings to frames; see `Encoder.embed`."""
        require_floating(inputs, "recordings [B, samples, channels]", 3)
        if inputs.shape[2] != self.channels:
            raise ValueError(f"the model takes {self.channels} channels, got inputs of {inputs.shape[2]}")
        return self.frames(inputs)
