"""What the models know of a modality, and what a configuration says with its help."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from d2v_fast import registry
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder


class ModelModality(Protocol):
    """The part of a modality that the models use; see `d2v_fast.modalities.Modality`."""

    name: str

    masks_inputs: bool
    """Whether the student's input itself is masked (tokens that are replaced), not its local features."""

    def encoder(self, config: ModelConfig) -> Encoder:
        """A new encoder with random weights of torch's global generator, initialised as the modality's recipe says."""
        ...

    def initialise_head(self, head: nn.Module) -> None:
        """Gives a new regression head the recipe's weights."""
        ...

    def initialise_decoder(self, decoder: nn.Module) -> None:
        """Gives a new decoder (data2vec 2.0) the recipe's weights."""
        ...

    def token_count(self, embedding: Any, size: Any) -> Any:
        """How many tokens an input of this size makes."""
        ...


def modality_of(config: ModelConfig) -> ModelModality:
    """The modality of a configuration.

    Raises:
        ConfigError: Nobody has registered it.
    """
    modality: ModelModality = registry.get(config.modality)
    return modality


def build_encoder(config: ModelConfig) -> Encoder:
    """A new encoder with random weights (torch's global generator), initialised as the modality's recipe says."""
    return modality_of(config).encoder(config)


def initialise_head(head: nn.Module, config: ModelConfig) -> None:
    """The recipe's weights for a regression head."""
    modality_of(config).initialise_head(head)


def initialise_decoder(decoder: nn.Module, config: ModelConfig) -> None:
    """The recipe's weights for a decoder."""
    modality_of(config).initialise_decoder(decoder)


def token_count(config: ModelConfig, size: Any) -> Any:
    """How many tokens an input makes.

    Args:
        config: Of the model.
        size: Of an input, as the modality counts it: samples of a waveform, tokens of a text (an int, a numpy array or
            a tensor); not used where all inputs have one size.

    Returns:
        Tokens, of the kind of `size`; for images the grid (height, width) in patches.
    """
    return modality_of(config).token_count(config.embedding, size)
