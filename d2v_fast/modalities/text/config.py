"""Text: how files become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d2v_fast.data.config import InputsConfig
from d2v_fast.models.config import EmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class TextInputs(InputsConfig):
    """Documents: tokenised once, joined with the end token between, cut into blocks."""

    modality: ClassVar[str] = "text"

    block_size: int = 512
    """Tokens in a block, its begin and end token included."""

    packed: bool = True
    """Join documents into full blocks; False: each document is a sequence of its own, cut where it is longer."""

    tokenizer: str | None = None
    """Path of a `tokenizers` JSON file; None trains a byte-level BPE of the model's vocabulary size on the corpus."""


@dataclass(frozen=True, kw_only=True)
class TextEmbedding(EmbeddingConfig):
    """Tokens to vectors: token and learned position embeddings, LayerNorm."""

    modality: ClassVar[str] = "text"

    vocab_size: int = 50265
    """Rows of the token embedding."""

    max_length: int = 512
    """Longest sequence, in tokens."""

    pad_id: int = 1
    """The padding token; positions are counted from pad_id + 1."""
