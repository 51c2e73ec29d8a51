"""The modality "vision" as one object."""

from __future__ import annotations

from typing import Any

from torch import nn

from d2v_fast.masking.config import BlockMask, InverseBlockMask
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder


class Vision:
    """Pictures float32 [B, channels, height, width]."""

    name = "vision"
    embedding = VisionEmbedding
    inputs = VisionInputs
    masks = (BlockMask, InverseBlockMask)
    masks_inputs = False

    def encoder(self, config: ModelConfig) -> Encoder:
        """See `Modality.encoder`."""
        from d2v_fast.modalities.vision.encoder import VisionEncoder

        return VisionEncoder(config)

    def initialise_head(self, head: nn.Module) -> None:
        """Normal(0, 0.02) cut at one standard deviation, biases zero."""
        from d2v_fast.modalities.vision.encoder import truncated_normal_

        for module in head.modules():
            if isinstance(module, nn.Linear):
                truncated_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """The grid (height, width) in patches."""
        side = embedding.image_size // embedding.patch_size
        return side, side
