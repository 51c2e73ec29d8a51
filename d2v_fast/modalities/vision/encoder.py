"""Vision: patches, class token, positions, context network (paper, section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from d2v_fast.modalities.patches import PatchEncoder
from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import require_floating
from d2v_fast.modules.positions import RelativePositionBias, SinCosPositions


class VisionEncoder(PatchEncoder):
    """Images float32 [B, channels, height, width] to [B, T, C], patches row by row."""

    def __init__(self, config: ModelConfig) -> None:
        assert isinstance(config.embedding, VisionEmbedding)
        embedding = config.embedding
        size, patch = embedding.image_size, embedding.patch_size
        super().__init__(config, (size, size), (patch, patch), embedding.channels)
        self.config = embedding
        self.positions: nn.Module
        if embedding.positions == "sincos":
            self.positions = SinCosPositions(self.grid, config.transformer.dim)
        else:
            self.positions = RelativePositionBias(self.grid, config.transformer.heads)

    def embed(self, inputs: Tensor) -> Tensor:
        """Images to patches; see `Encoder.embed`."""
        require_floating(inputs, "images [B, channels, height, width]", 4)
        wanted = (self.config.channels, self.config.image_size, self.config.image_size)
        if tuple(inputs.shape[1:]) != wanted:
            raise ValueError(f"the model wants images of shape {list(wanted)}, got {list(inputs.shape[1:])}")
        features: Tensor = self.embedding(inputs)
        return features

    def token_lengths(self, lengths: Tensor | None) -> None:
        """Images are whole; see `Encoder.token_lengths`."""
        if lengths is not None:
            raise ValueError("images have no padding: lengths must be None")

    def place(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fixed positions are added to the patches, relative ones are the bias; see `Encoder.place`."""
        if isinstance(self.positions, SinCosPositions):
            return self.positions(x), None
        return x, self.positions()
