"""Which encoder a configuration means."""

from __future__ import annotations

from typing import Any

from torch import nn

from d2v_fast.models.config import ModelConfig, SpeechEmbedding, VisionEmbedding
from d2v_fast.models.encoder import Encoder
from d2v_fast.models.speech import SpeechEncoder, frame_count
from d2v_fast.models.text import TextEncoder, initialise_text
from d2v_fast.models.vision import VisionEncoder, truncated_normal_


def build_encoder(config: ModelConfig) -> Encoder:
    """A new encoder with random weights (torch's global generator), initialised as the modality's recipe says."""
    if config.modality == "speech":
        return SpeechEncoder(config)
    return VisionEncoder(config) if config.modality == "vision" else TextEncoder(config)


def initialise_head(head: nn.Module, config: ModelConfig) -> None:
    """The recipe's weights for a regression head; speech keeps torch's own, as the released code has them."""
    if config.modality == "text":
        initialise_text(head)
    if config.modality == "vision":
        for module in head.modules():
            if isinstance(module, nn.Linear):
                truncated_normal_(module.weight)
                nn.init.zeros_(module.bias)


def token_count(config: ModelConfig, size: Any) -> Any:
    """How many tokens an input makes.

    Args:
        config: of the model.
        size: speech: samples (an int, a numpy array or a tensor); text: tokens; vision: not used.

    Returns:
        Speech: frames, of the kind of `size`; text: `size`; vision: the grid (height, width) in patches.
    """
    embedding = config.embedding
    if isinstance(embedding, SpeechEmbedding):
        return frame_count(embedding, size)
    if isinstance(embedding, VisionEmbedding):
        side = embedding.image_size // embedding.patch_size
        return side, side
    return size
