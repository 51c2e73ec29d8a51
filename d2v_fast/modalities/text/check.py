"""Text: what must fit between the sections of a configuration."""

from __future__ import annotations

from typing import cast

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import TokenMask
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs


def check(config: Config) -> None:
    """See `Modality.check`.

    Raises:
        ConfigError: Blocks are longer than the model's positions or shorter than a span, nothing would be masked, or
            a batch cannot hold a block.
    """
    embedding, inputs = cast(TextEmbedding, config.model.embedding), cast(TextInputs, config.inputs)
    mask, loader, block = cast(TokenMask, config.mask), config.loader, inputs.block_size
    if block > embedding.max_length:
        raise ConfigError(
            f"inputs.block_size is {block}, but model.embedding.max_length is only {embedding.max_length}"
        )
    if mask.length > block:
        raise ConfigError(f"mask.length is {mask.length}, but inputs.block_size is only {block}: lower mask.length")
    if mask.probability == 0:
        raise ConfigError("mask.probability is 0: nothing would be masked; the published recipe has 0.35")
    if loader.batch_tokens is not None and loader.batch_tokens < block:
        raise ConfigError(
            f"loader.batch_tokens is {loader.batch_tokens}, less than one block of inputs.block_size {block}: "
            "raise it, or lower inputs.block_size"
        )
