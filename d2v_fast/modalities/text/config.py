"""Text: how files become inputs, and inputs become tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from d2v_fast.checks import MAY_CHANGE, Check
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

    tokenizer: str | None = field(default=None, metadata=MAY_CHANGE)
    """Path of a `tokenizers` JSON file; None trains a byte-level BPE of the model's vocabulary size on the corpus. May
    change: what is in the file belongs to the data and may not."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(2, "block_size")
        check.require(self.tokenizer != "", "tokenizer", "the path of a file, or None")


@dataclass(frozen=True, kw_only=True)
class TextEmbedding(EmbeddingConfig):
    """Tokens to vectors: token and learned position embeddings, LayerNorm; convolutions over the tokens on request."""

    modality: ClassVar[str] = "text"

    vocab_size: int = 50265
    """Rows of the token embedding."""

    max_length: int = 512
    """Longest sequence, in tokens."""

    pad_id: int = 1
    """The padding token; positions are counted from pad_id + 1."""

    position_depth: int = 0
    """Convolutions over the tokens, each with LayerNorm and GELU, whose output is added to them before the blocks, as
    speech has them; 0: none. Which tokens are neighbours is seen from the start then, and the learned positions begin
    at zero (data2vec 1.0 only)."""

    position_kernel: int = 5
    """Tokens that each of them sees."""

    position_groups: int = 1
    """Groups of each of them."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "vocab_size", "max_length", "position_kernel", "position_groups")
        check.at_least(0, "position_depth")
        check.require(0 <= self.pad_id < self.vocab_size, "pad_id", f"a token: 0 to {self.vocab_size - 1}")
