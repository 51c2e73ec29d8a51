"""Speech: waveform, convolutions, position convolutions, context network (paper, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2v_fast.modalities.speech.config import SpeechEmbedding
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder, require_floating
from d2v_fast.modules.convolution import Frames
from d2v_fast.modules.positions import PositionConvolutions


def seen_samples(embedding: SpeechEmbedding, samples: int) -> int:
    """How many of `samples` samples the frames look at; what is behind them, less than a stride, changes nothing.

    All of a clip that is too short for a frame: the encoder refuses it with its own length.
    """
    frames = int(embedding.frames(samples))
    return samples if frames < 1 else samples_of(embedding, frames)


def samples_of(embedding: SpeechEmbedding, frames: int) -> int:
    """How many samples `frames` frames look at, at least one frame."""
    needed = frames
    for _, kernel, stride in reversed(embedding.conv_layers):
        needed = (needed - 1) * stride + kernel
    return needed


class SpeechEncoder(Encoder):
    """Waveform float32 [B, samples] to [B, T, C]."""

    def __init__(self, config: ModelConfig) -> None:
        assert isinstance(config.embedding, SpeechEmbedding)
        frames = Frames(1, config.embedding.conv_layers, config.transformer.dim, config.embedding.gradient_scale)
        super().__init__(config, frames, norm=True)
        self.config = config.embedding
        self.positions = PositionConvolutions(
            config.transformer.dim,
            config.embedding.position_depth,
            config.embedding.position_kernel,
            config.embedding.position_groups,
        )
        # BERT's initialisation, in the context network only; convolutions and projection keep their own as released.
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, inputs: Tensor) -> Tensor:
        """Waveforms to frames; see `Encoder.embed`."""
        require_floating(inputs, "waveforms [B, samples]", 2)
        if self.config.frames(inputs.shape[1]) < 1:
            raise ValueError(
                f"clips of {inputs.shape[1]} samples are too short: one frame needs {self.config.receptive_field}"
            )
        features: Tensor = self.embedding(inputs.unsqueeze(2))
        return features

    def token_lengths(self, lengths: Tensor | None) -> Tensor | None:
        """Valid frames, from valid samples."""
        return None if lengths is None else self.config.frames(lengths)

    def place(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, None]:
        """Add the positions; padded frames are zeroed before the convolutions and not between them, as released."""
        if valid is not None:
            x = torch.where(valid.unsqueeze(2), x, 0.0)
        return x + self.positions(x), None
