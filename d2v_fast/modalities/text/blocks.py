"""Sequences of tokens by number, out of one long row of them on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from d2v_fast.data.source import Lost
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.cuts import Cuts, cut


class TextBlocks:
    """The begin token, then up to `block_size` - 1 tokens of the corpus, where an end token follows every document.

    Args:
        tokens: The corpus, uint16 or uint32 [count], usually memory-mapped.
        tokenizer: Says which tokens are special.
        block_size: Tokens in a block.
        fingerprint: Of the corpus.
        packed: Blocks follow each other through the corpus, all of them full: one may hold several documents, or a part
            of one, and what is left behind the last whole block is not used. Otherwise each document is a sequence,
            and one that is longer is cut into several; an end token that would be alone is left out.
        cuts: Of what is not packed, where the sequences are known already.
        lost: What could not be read and is in no block.
    """

    modality = "text"

    folder: Path | None = None
    """Where the index is, if it is kept."""

    def __init__(
        self,
        tokens: np.ndarray,
        tokenizer: Tokenizer,
        block_size: int,
        fingerprint: str,
        *,
        packed: bool = True,
        cuts: Cuts | None = None,
        lost: Lost | None = None,
    ) -> None:
        special = vocabulary.specials(tokenizer)
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.mask_id, self.pad_id = special.mask, special.pad
        self.special_ids: tuple[int, ...] = (*special.all, *vocabulary.unused(tokenizer))
        """Ids that are never drawn as a random replacement: special tokens, and ids that no token has."""
        self.vocab_size: int = vocabulary.size(tokenizer)
        """One more than the largest id."""
        self.lost = lost
        self._begin = special.begin
        self._plain = np.asarray(tokens)  # slices of a memmap cost three times as much
        self._most = block_size - 1
        self._cuts: Cuts | None = None
        if packed:
            self.sizes = np.broadcast_to(np.int64(block_size), (len(tokens) // self._most,))  # one number, N times
        else:
            self._cuts = cuts or cut(self._plain, special.end, self._most)
            self.sizes = self._cuts.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """The block's number."""
        return f"block {index}"

    def read(self, index: int) -> np.ndarray:
        """One sequence: int64 [sizes[index]]."""
        block = np.empty((1, self.sizes[index]), dtype=np.int64)
        self.gather(np.array([index]), block)
        return block[0]

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Writes many sequences at once.

        Args:
            indices: int64 [B].
            out: int64 [B, T], T the longest of them or more; the rest of a row is filled with padding.
        """
        width = out.shape[1]
        out[:, 0] = self._begin
        lengths = self.sizes[indices]
        starts = indices * self._most if self._cuts is None else self._cuts.starts[indices]
        for row, start, length in zip(out, starts.tolist(), lengths.tolist(), strict=True):
            row[1:length] = self._plain[start : start + length - 1]
            if length < width:
                row[length:] = self.pad_id
