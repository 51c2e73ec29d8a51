"""Text: what must fit between the sections of a configuration."""

from __future__ import annotations

from typing import cast

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import RandomMask, TokenMask
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs


def check(config: Config) -> None:
    """See `Modality.check`.

    Raises:
        ConfigError: Blocks are longer than the model's positions or shorter than a span, nothing would be masked,
            convolutions do not fit the model, or a batch cannot hold a block.
    """
    embedding, inputs = cast(TextEmbedding, config.model.embedding), cast(TextInputs, config.inputs)
    loader, block = config.loader, inputs.block_size
    if block > embedding.max_length:
        raise ConfigError(
            f"inputs.block_size is {block}, but model.embedding.max_length is only {embedding.max_length}"
        )
    if isinstance(config.mask, RandomMask):
        _check_left_out(config.mask, config.model.encodes_kept, block)
    else:
        _check_replaced(cast(TokenMask, config.mask), config.model.encodes_kept, block)
    if embedding.position_depth:
        _check_convolutions(embedding, config.model.transformer.dim, config.model.encodes_kept)
    if loader.batch_tokens is not None and loader.batch_tokens < block:
        raise ConfigError(
            f"loader.batch_tokens is {loader.batch_tokens}, less than one block of inputs.block_size {block}: "
            "raise it, or lower inputs.block_size"
        )


def _check_convolutions(embedding: TextEmbedding, dim: int, encodes_kept: bool) -> None:
    if encodes_kept:
        raise ConfigError(
            f"model.embedding.position_depth is {embedding.position_depth}, but model.head is a DecoderConfig: the "
            "convolutions would show hidden tokens to their neighbours; set it to 0, or use a HeadConfig"
        )
    if dim % embedding.position_groups:
        raise ConfigError(
            f"model.embedding.position_groups is {embedding.position_groups}, but it must divide "
            f"model.transformer.dim, which is {dim}"
        )


def _check_replaced(mask: TokenMask, encodes_kept: bool, block: int) -> None:
    if encodes_kept:
        raise ConfigError(
            "mask is a TokenMask, which replaces tokens, but model.head is a DecoderConfig: the student does not see "
            "masked tokens at all; use a RandomMask"
        )
    if mask.length > block:
        raise ConfigError(f"mask.length is {mask.length}, but inputs.block_size is only {block}: lower mask.length")
    if mask.probability == 0:
        raise ConfigError("mask.probability is 0: nothing would be masked; the published recipe has 0.35")


def _check_left_out(mask: RandomMask, encodes_kept: bool, block: int) -> None:
    if not encodes_kept:
        raise ConfigError(
            "mask is a RandomMask, which leaves tokens out, but model.head is a HeadConfig: the student sees a mask "
            "token in their place; use a TokenMask"
        )
    kept = int(block * (1 - mask.ratio))
    if not 1 <= kept < block:
        what = "kept" if kept < 1 else "masked"
        raise ConfigError(f"mask.ratio is {mask.ratio}: of the {block} tokens of a block nothing would be {what}")
