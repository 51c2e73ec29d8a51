"""The modality "speech" as one object."""

from __future__ import annotations

from typing import Any

from torch import nn

from d2v_fast.masking.config import SpanMask
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder


class Speech:
    """Waveforms float32 [B, samples]."""

    name = "speech"
    embedding = SpeechEmbedding
    inputs = SpeechInputs
    masks = (SpanMask,)
    masks_inputs = False

    def encoder(self, config: ModelConfig) -> Encoder:
        """See `Modality.encoder`."""
        from d2v_fast.modalities.speech.encoder import SpeechEncoder

        return SpeechEncoder(config)

    def initialise_head(self, head: nn.Module) -> None:
        """Torch's own weights, as the released code has them."""

    def token_count(self, embedding: Any, size: Any) -> Any:
        """Frames of `size` samples."""
        from d2v_fast.modalities.speech.encoder import frame_count

        return frame_count(embedding, size)
