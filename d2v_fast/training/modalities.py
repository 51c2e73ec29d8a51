"""The registry of modalities: what depends on the kind of input, beside the model and the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2v_fast import masking
from d2v_fast.config import Config
from d2v_fast.data import DataSource, Loader, MaskMaker, Openable, open_source
from d2v_fast.errors import ConfigError
from d2v_fast.masking import Masks
from d2v_fast.masking.config import BlockMask, InverseBlockMask, SpanMask, TokenMask
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models import token_count


@dataclass(frozen=True)
class Modality:
    """One modality."""

    masks: tuple[type, ...]
    """The mask configurations that it can use."""

    inputs: type
    """Its input configuration."""

    mask_maker: Callable[[Config, Any], MaskMaker]
    """(configuration, data source) to the maker of its masks."""


def open_loader(
    config: Config,
    source: DataSource,
    first_step: int = 0,
    device: torch.device | None = None,
    engine: Literal["dali", "native"] | None = None,
) -> Loader:
    """The batches of a run, from optimizer step `first_step` on, for use on `device` (the CPU by default).

    `engine` is what decoded when the run was begun; "auto" then means the same.

    Raises:
        DataError: The source, or the sections `inputs` or `loader`, do not fit.
    """
    embedding = config.model.embedding
    return Loader(
        source,
        inputs=config.inputs,
        config=config.loader,
        seed=config.seed,
        masks=_explained(MODALITIES[config.model.modality].mask_maker(config, source)),
        image_size=embedding.image_size if isinstance(embedding, VisionEmbedding) else None,
        first_step=first_step,
        device=device,
        engine=engine,
    )


def open_data(data: Openable, config: Config, run: Path | None) -> DataSource:
    """The data of a run; its index is kept in the folder `run`, or in memory.

    Raises:
        DataError: The data cannot be used, or is not what it was when the index was made.
    """
    embedding = config.model.embedding
    return open_source(
        data,
        config.model.modality,
        config.inputs,
        vocab_size=embedding.vocab_size if isinstance(embedding, TextEmbedding) else None,
        run=run,
        threads=config.loader.threads,
        allow_roots=config.loader.allow_roots,
    )


def _explained(make: MaskMaker) -> MaskMaker:
    """The maker with errors that say which section of the configuration they are about."""

    def explained(inputs: Tensor, lengths: Tensor | None, sample_ids: NDArray[np.int64], epoch: int) -> Masks:
        try:
            return make(inputs, lengths, sample_ids, epoch)
        except ValueError as error:
            raise ConfigError(f"mask: {error}") from error

    return explained


def _speech(config: Config, source: DataSource) -> MaskMaker:
    mask = cast(SpanMask, config.mask)

    def make(inputs: Tensor, lengths: Tensor | None, sample_ids: NDArray[np.int64], epoch: int) -> Masks:
        width = int(token_count(config.model, inputs.shape[1]))
        frames = [width] * len(inputs) if lengths is None else token_count(config.model, lengths)
        return masking.span_masks(mask, frames, width=width, seed=config.seed, epoch=epoch, sample_ids=sample_ids)

    return make


def _vision(config: Config, source: DataSource) -> MaskMaker:
    grid = token_count(config.model, None)
    mask = config.mask

    def make(inputs: Tensor, lengths: Tensor | None, sample_ids: NDArray[np.int64], epoch: int) -> Masks:
        if isinstance(mask, InverseBlockMask):
            return masking.inverse_block_masks(mask, grid, seed=config.seed, epoch=epoch, sample_ids=sample_ids)
        return masking.block_masks(cast(BlockMask, mask), grid, seed=config.seed, epoch=epoch, sample_ids=sample_ids)

    return make


def _text(config: Config, source: Any) -> MaskMaker:
    mask, embedding = cast(TokenMask, config.mask), cast(TextEmbedding, config.model.embedding)
    if source.vocab_size > embedding.vocab_size:
        raise ConfigError(
            f"model.embedding.vocab_size is {embedding.vocab_size}, but the tokenizer has {source.vocab_size} tokens; "
            "raise the one or train a smaller tokenizer"
        )
    if source.pad_id != embedding.pad_id:
        raise ConfigError(f"model.embedding.pad_id is {embedding.pad_id}, but the tokenizer's is {source.pad_id}")

    def make(inputs: Tensor, lengths: Tensor | None, sample_ids: NDArray[np.int64], epoch: int) -> Masks:
        return masking.token_masks(
            mask,
            inputs,
            lengths,
            mask_id=source.mask_id,
            vocab_size=source.vocab_size,
            special_ids=source.special_ids,
            seed=config.seed,
            epoch=epoch,
            sample_ids=sample_ids,
        )

    return make


MODALITIES = {
    "speech": Modality((SpanMask,), SpeechInputs, _speech),
    "vision": Modality((BlockMask, InverseBlockMask), VisionInputs, _vision),
    "text": Modality((TokenMask,), TextInputs, _text),
}
"""Modality name, as `ModelConfig.modality` gives it, to what belongs to it."""
