"""The modality "text" as one object."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor, nn

from d2v_fast import masking
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource, LoaderConfig, MaskMaker
from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.paths import expanded
from d2v_fast.errors import ConfigError
from d2v_fast.files import write_whole
from d2v_fast.masking import Masks
from d2v_fast.masking.config import RandomMask, TokenMask
from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.drawing import Drawing, Histogram
from d2v_fast.modalities.long import Long, Timing
from d2v_fast.modalities.text import documents
from d2v_fast.modalities.text.check import check
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.modalities.text.describe import describe
from d2v_fast.modalities.text.draw import draw
from d2v_fast.modalities.text.encoder import TextEncoder, initialise_text
from d2v_fast.modalities.text.prepare import prepare, read
from d2v_fast.modalities.text.sampling import TokenSampling
from d2v_fast.modalities.text.sequences import LongText, TextSequences
from d2v_fast.modalities.text.source import TOKENIZER, open_text
from d2v_fast.modalities.text.tokenizer import load
from d2v_fast.models.config import ModelConfig

_OFTEN = 100
"""Times that a piece of the vocabulary should be there on average."""

_FEWEST = 512
"""Pieces of the smallest vocabulary that is chosen: 261 are bytes and special tokens."""


class Text(Modality):
    """Tokens int64 [B, T]."""

    name = "text"
    embedding = TextEmbedding
    inputs = TextInputs
    masks = (TokenMask, RandomMask)
    masks_inputs = True
    default_preset = "text-tiny"
    budget_field = "batch_tokens"
    first_token = True

    def encoder(self, config: ModelConfig) -> TextEncoder:
        """See `Modality.encoder`."""
        return TextEncoder(config)

    def initialise_head(self, head: nn.Module) -> None:
        """Normal(0, 0.02), biases zero."""
        initialise_text(head)

    def initialise_decoder(self, decoder: nn.Module) -> None:
        """Linear maps normal(0, 0.02), biases zero; convolutions have torch's own weights."""
        initialise_text(decoder)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """The tokens themselves."""
        return size

    def kind(self, inputs: Any | None = None) -> Kind:
        """Text files."""
        return documents.kind()

    def open(
        self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int
    ) -> DataSource:
        """Indexes and tokenises documents."""
        vocab_size = None if embedding is None else embedding.vocab_size
        return open_text(found, inputs, vocab_size=vocab_size, run=run, threads=threads)

    def open_texts(
        self, names: Sequence[str], texts: Sequence[tuple[str, ...]], inputs: Any, embedding: Any | None
    ) -> DataSource:
        """See `sequences.TextSequences`."""
        if inputs.tokenizer is None:
            raise DataError(
                "inputs.tokenizer is not given, and labelled texts train none: give the tokenizer.json of the run"
            )
        tokenizer = load(expanded(inputs.tokenizer, "inputs.tokenizer"))
        most = inputs.block_size if embedding is None else min(inputs.block_size, embedding.max_length)
        return TextSequences(names, texts, tokenizer, most)

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> int:
        """Texts are no arrays."""
        raise DataError("texts are not taken as arrays: write them to a .jsonl file, or bring a DataSource of tokens")

    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> TokenSampling:
        """Whole sequences."""
        return TokenSampling(embedding.pad_id)

    def mask_maker(self, config: Config, source: Any) -> MaskMaker:
        """Tokens that are replaced, or left out."""
        mask, embedding = config.mask, cast(TextEmbedding, config.model.embedding)
        if source.vocab_size > embedding.vocab_size:
            raise ConfigError(
                f"model.embedding.vocab_size is {embedding.vocab_size}, but the tokenizer has {source.vocab_size} "
                "tokens; raise the one or train a smaller tokenizer"
            )
        if source.pad_id != embedding.pad_id:
            raise ConfigError(f"model.embedding.pad_id is {embedding.pad_id}, but the tokenizer's is {source.pad_id}")

        def make(inputs: Tensor, lengths: Tensor | None, sample_ids: np.ndarray, epoch: int) -> Masks:
            key: dict[str, Any] = {"seed": config.seed, "epoch": epoch, "sample_ids": sample_ids, "views": mask.views}
            if isinstance(mask, RandomMask):
                width = inputs.shape[1]
                valid = [width] * len(inputs) if lengths is None else lengths
                return masking.random_masks(mask, valid, width=width, **key)
            return masking.token_masks(
                cast(TokenMask, mask),
                inputs,
                lengths,
                mask_id=source.mask_id,
                vocab_size=source.vocab_size,
                special_ids=source.special_ids,
                **key,
            )

        return make

    def check(self, config: Config) -> None:
        """See `check.check`."""
        check(config)

    def keep(self, source: Any, run: Path) -> None:
        """The tokenizer, where the source has one, as `TextBlocks` has."""
        tokenizer = getattr(source, "tokenizer", None)
        if isinstance(tokenizer, Tokenizer) and not (run / TOKENIZER).exists():
            write_whole(run / TOKENIZER, tokenizer.to_str())

    def carry(self, run: Path, out: Path) -> None:
        """The tokenizer."""
        if (run / TOKENIZER).is_file() and not (out / TOKENIZER).exists():
            shutil.copyfile(run / TOKENIZER, out / TOKENIZER)

    def for_features(self, inputs: Any, run: Path) -> Any:
        """With the tokenizer that the run keeps, and each document by itself."""
        kept = run / TOKENIZER
        # Never None, which would train another tokenizer where a corpus is opened.
        given = inputs.tokenizer if inputs.tokenizer is not None and not kept.is_file() else str(kept)
        return replace(inputs, packed=False, tokenizer=given)

    def read(self, given: Any, inputs: Any, embedding: Any, *, name: str = "sample") -> Any:
        """A `str` is a text, a `Path` a file of it: the begin token, its tokens, the end token, cut to the longest."""
        if not isinstance(given, (str, Path)):
            return given
        return read(given, inputs, embedding, name)

    def prepare(self, sample: np.ndarray | Tensor, inputs: Any, embedding: Any, *, name: str = "sample") -> Tensor:
        """See `d2v_fast.modalities.text.prepare`."""
        return prepare(sample, inputs, embedding, name)

    def timing(self, inputs: Any, embedding: Any) -> Timing:
        """Tokens."""
        longest = min(inputs.block_size, embedding.max_length)
        return Timing(longest, most=embedding.max_length, overlap=2)

    def long(self, source: DataSource, index: int, inputs: Any, embedding: Any) -> Long | None:
        """A single text; what a corpus is cut into is used whole."""
        return LongText(source.whole(index)) if isinstance(source, TextSequences) else None

    def suited(self, source: DataSource, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """A smaller vocabulary for a small corpus: each piece should be seen often, or its row stays a random one."""
        size, count = config.model.embedding.vocab_size, int(np.asarray(source.sizes).sum())
        if config.inputs.tokenizer is not None or count >= _OFTEN * size:
            return {}, {}
        smaller = max(_FEWEST, 2 ** int(math.log2(max(1, count // _OFTEN))))
        if smaller >= size:
            return {}, {}
        name = "model.embedding.vocab_size"
        return {name: smaller}, {
            name: f"vocabulary: {smaller:,} pieces instead of {size:,}, for {count:,} tokens of text"
        }

    def describe(self, source: DataSource, inputs: Any) -> tuple[list[tuple[str, str]], list[Histogram]]:
        """See `d2v_fast.modalities.text.describe`."""
        return describe(source, inputs)

    def draw(self, source: DataSource, config: Config, batch: Batch) -> Drawing:
        """See `d2v_fast.modalities.text.draw`."""
        return draw(source, config, batch)
