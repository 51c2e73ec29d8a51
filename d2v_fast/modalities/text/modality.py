"""The modality "text" as one object."""

from __future__ import annotations

from typing import Any

from torch import nn

from d2v_fast.masking.config import TokenMask
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder


class Text:
    """Tokens int64 [B, T]."""

    name = "text"
    embedding = TextEmbedding
    inputs = TextInputs
    masks = (TokenMask,)
    masks_inputs = True

    def encoder(self, config: ModelConfig) -> Encoder:
        """See `Modality.encoder`."""
        from d2v_fast.modalities.text.encoder import TextEncoder

        return TextEncoder(config)

    def initialise_head(self, head: nn.Module) -> None:
        """Normal(0, 0.02), biases zero."""
        from d2v_fast.modalities.text.encoder import initialise_text

        initialise_text(head)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """The tokens themselves."""
        return size
