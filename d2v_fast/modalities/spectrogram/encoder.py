"""Spectrograms: patches on a grid of time and frequency, class token, fixed positions, context network."""

from __future__ import annotations

import torch
from torch import Tensor

from d2v_fast.modalities.patches import PatchEncoder
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import require_floating
from d2v_fast.modules.positions import SinCosPositions


class SpectrogramEncoder(PatchEncoder):
    """Spectrograms float32 [B, frames, bins] to [B, T, C]: all patches of one time, lowest bins first, then the next.

    So the patches of a shorter input are the first ones of a longer one, and padding comes last.
    """

    def __init__(self, config: ModelConfig) -> None:
        assert isinstance(config.embedding, SpectrogramEmbedding)
        embedding = config.embedding
        longest = embedding.max_frames // embedding.patch[0] * embedding.patch[0]
        super().__init__(config, (longest, embedding.bins), embedding.patch, 1)
        self.config = embedding
        self.positions = SinCosPositions(self.grid, config.transformer.dim)

    def embed(self, inputs: Tensor) -> Tensor:
        """Spectrograms to patches; see `Encoder.embed`."""
        require_floating(inputs, "spectrograms [B, frames, bins]", 3)
        frames, step = inputs.shape[1] // self.config.patch[0] * self.config.patch[0], self.config.patch[0]
        if inputs.shape[2] != self.config.bins or not step <= frames <= self.config.max_frames:
            raise ValueError(
                f"the model takes {self.config.bins} bins and {step} to {self.config.max_frames} frames, got inputs of "
                f"{inputs.shape[2]} bins and {inputs.shape[1]} frames"
            )
        if self.training and self.config.warp > 0:
            inputs = stretched(inputs, self.config.warp)
        features: Tensor = self.embedding(inputs[:, None, :frames].contiguous())
        return features

    def shape(self, tokens: int) -> tuple[int, ...]:
        """(time, frequency) in patches; (time,) where one patch has all bins, so convolutions go over time alone."""
        return super().shape(tokens) if self.grid[1] > 1 else (tokens,)

    def token_lengths(self, lengths: Tensor | None) -> Tensor | None:
        """Valid patches, from valid frames."""
        return None if lengths is None else self.config.tokens(lengths)

    def place(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, None]:
        """Positions of time and frequency are added."""
        return self.positions(x), None


def stretched(inputs: Tensor, most: float) -> Tensor:
    """The bins of each sample stretched by a factor of its own, uniform on a logarithmic scale (VTLP).

    Between bins it is interpolated linearly; what would lie above the last bin is the last bin. The factors are drawn
    from torch's generator of the device, as those of dropout are.

    Args:
        inputs: [B, frames, bins].
        most: The factors lie between exp(-most) and exp(most).

    Returns:
        [B, frames, bins].
    """
    bins = torch.arange(inputs.shape[2], device=inputs.device, dtype=torch.float32)
    draws = torch.rand(len(inputs), 1, device=inputs.device, dtype=torch.float32)
    at = (bins * torch.exp(most * (2 * draws - 1))).clamp(max=inputs.shape[2] - 1)
    shares = (1 - (at[:, :, None] - bins).abs()).clamp(min=0)
    return inputs @ shares.to(inputs.dtype).transpose(1, 2)
