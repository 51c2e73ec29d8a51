"""Vision: patches, class token, positions, context network (paper, section 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from d2v_fast.modalities.vision.config import VisionEmbedding
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder, require_floating
from d2v_fast.modules.embedding import Patches
from d2v_fast.modules.positions import RelativePositionBias, SinCosPositions


class VisionEncoder(Encoder):
    """Images float32 [B, channels, height, width] to [B, T, C], patches row by row."""

    def __init__(self, config: ModelConfig) -> None:
        assert isinstance(config.embedding, VisionEmbedding)
        embedding, dim = config.embedding, config.transformer.dim
        size, patch = embedding.image_size, embedding.patch_size
        patches = Patches((size, size), (patch, patch), embedding.channels, dim)
        super().__init__(config, patches, norm=True)
        self.config = embedding
        self.positions: nn.Module
        if embedding.positions == "sincos":
            self.positions = SinCosPositions(patches.grid, dim)
        else:
            self.positions = RelativePositionBias(patches.grid, config.transformer.heads)
        self._initialise()

    def _initialise(self) -> None:
        """Normal(0, 0.02) cut at one standard deviation; ends of branches are scaled down with depth, as in BEiT."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                truncated_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        truncated_normal_(self.embedding.get_parameter("class_token"))
        truncated_normal_(self.embedding.get_parameter("mask_token"))
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                for name in ("attention.out.weight", "ffn.down.weight"):
                    block.get_parameter(name).div_(math.sqrt(2 * number))

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

    def extra(self) -> Tensor:
        """The class token."""
        return self.embedding.get_parameter("class_token").unsqueeze(0)


def truncated_normal_(weight: Tensor, std: float = 0.02) -> None:
    """Fill from a normal distribution of deviation `std`, cut at -std and std, as the released vision code does."""
    nn.init.trunc_normal_(weight, std=std, a=-std, b=std)
