"""Texts with labels: each text, or pair of texts, is one sequence of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from d2v_fast.errors import DataError
from d2v_fast.log import tell
from d2v_fast.modalities.text import tokenizer as vocabulary
from d2v_fast.modalities.text.documents import Piece


class TextSequences:
    """Sequences as RoBERTa was fine-tuned on them: `<s> A </s>`, and `<s> A </s> </s> B </s>` of a pair.

    Args:
        names: A name for each.
        texts: One or two strings each.
        tokenizer: Of the run.
        most: Tokens of a sequence. Of longer ones the end is cut off, of a pair from the longer text first.

    Raises:
        DataError: `most` leaves no room for a text.
    """

    modality = "text"

    def __init__(self, names: Sequence[str], texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, most: int) -> None:
        special = vocabulary.specials(tokenizer)
        if most < 6:
            raise DataError(f"inputs.block_size or the model's max_length is {most}: no pair of texts fits into that")
        self.tokenizer = tokenizer
        self.mask_id, self.pad_id = special.mask, special.pad
        self.special_ids: tuple[int, ...] = (*special.all, *vocabulary.unused(tokenizer))
        self.vocab_size: int = vocabulary.size(tokenizer)
        self._names = names
        every = [Piece(text, True) for pair in texts for text in pair]
        encoded = [ids for ids, _ in vocabulary.encode(tokenizer, every)]
        digest = hashlib.blake2b(self.modality.encode(), digest_size=16)
        self._tokens: list[np.ndarray] = []
        self._whole: dict[int, np.ndarray] = {}
        cut: list[int] = []
        at = 0
        for pair in texts:
            parts = encoded[at : at + len(pair)]
            at += len(pair)
            kept = shortened([len(part) for part in parts], most - 2 * len(parts))
            if kept != [len(part) for part in parts]:
                cut.append(len(self._tokens))
            ids: list[int] = []
            for part, count in zip(parts, kept, strict=True):
                ids += [special.end if ids else special.begin, *part[:count], special.end]
            self._tokens.append(np.array(ids, dtype=np.int32))
            if len(parts) == 1 and kept[0] < len(parts[0]):
                whole = np.array([special.begin, *parts[0], special.end], dtype=np.int32)
                self._whole[len(self._tokens) - 1] = whole
            digest.update(len(ids).to_bytes(8, "little") + self._tokens[-1].astype("<i4").tobytes())
        self._cut = np.array(cut, dtype=np.int64)
        self._most, self._told = most, False
        self.sizes = np.array([len(ids) for ids in self._tokens], dtype=np.int64)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._tokens)

    def name(self, index: int) -> str:
        """The name given for this text."""
        return self._names[index]

    def read(self, index: int) -> np.ndarray:
        """One sequence: int64 [sizes[index]]. The first that is read of those whose end is cut off says so."""
        if not self._told and index in self._cut:
            self._told = True
            tell(f"{len(self._cut)} of {len(self)} texts are longer than {self._most} tokens: their ends are cut off")
        return self._tokens[index].astype(np.int64)

    def whole(self, index: int) -> np.ndarray:
        """One sequence with nothing cut off, int32; of a pair, as `read` gives it."""
        return self._whole.get(index, self._tokens[index])


class LongText:
    """A long text, a stretch of tokens at a time, each between a begin and an end token; see `Long`.

    Args:
        tokens: All of them, the begin token first and the end token last, integers [T].
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens, self.steps = tokens, len(tokens)

    def read(self, first: int, count: int) -> Tensor:
        """See `Long.read`: the first and the last token of a stretch make room for the begin and the end token."""
        ids = self._tokens[first : first + count].astype(np.int64)
        ids[0], ids[-1] = self._tokens[0], self._tokens[-1]
        return torch.from_numpy(ids)


def shortened(lengths: Sequence[int], most: int) -> list[int]:
    """How much of each text is kept: together `most` tokens at the most, cut from the longer one first.

    Args:
        lengths: Of one or two texts.
        most: Tokens that there is room for.
    """
    if len(lengths) == 1:
        return [min(lengths[0], most)]
    first, second = lengths
    fair = most // 2
    kept = min(first, max(most - fair, most - second))
    return [kept, min(second, most - kept)]
