"""Decoding of CTC outputs (Graves et al., 2006): greedy, by prefix beam search with an n-gram model, and alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2v_fast import _C
from d2v_fast.finetuning.ngram import BEGIN, END, UNKNOWN, NGram


@dataclass(frozen=True)
class Hypothesis:
    """One decoded sequence."""

    tokens: tuple[int, ...]
    """Without blanks and repetitions."""

    acoustic: float
    """ln p of the tokens given the outputs: summed over the alignments that the beam kept (greedy: of the best one)."""

    language: float = 0.0
    """What the language model added: lm_weight * ln p(words) + word_score for each word."""

    @property
    def score(self) -> float:
        """What hypotheses are ordered by."""
        return self.acoustic + self.language


def greedy(log_probs: Tensor, *, blank: int = 0) -> Hypothesis:
    """The best token of each frame, repetitions and blanks taken out.

    Args:
        log_probs: float [frames, symbols], natural logarithms.
        blank: The symbol that means nothing.

    Raises:
        ValueError: Another shape, or a blank that is no symbol.
    """
    values = _checked(log_probs, blank)
    best = values.argmax(1)
    changes = np.diff(best, prepend=-1) != 0
    tokens = tuple(int(token) for token in best[changes] if token != blank)
    return Hypothesis(tokens, float(values.max(1).sum()))


def spans(log_probs: Tensor, *, blank: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When the tokens of `greedy` are said, as `align` gives it: their best alignment is the best symbol of each frame.

    Args:
        log_probs: float [frames, symbols], natural logarithms.
        blank: The symbol that means nothing.

    Returns:
        The first frame of each token and the frame behind its last, int64 [tokens] each.
    """
    best = _checked(log_probs, blank).argmax(1)
    first = np.flatnonzero(np.diff(best, prepend=-1) != 0)
    behind = np.append(first[1:], len(best))[: len(first)]
    said = best[first] != blank
    return first[said].astype(np.int64), behind[said].astype(np.int64)


class Stretch(NamedTuple):
    """Frames that are decoded by themselves."""

    begin: int
    end: int
    word_ends: bool
    """Whether a word ends behind it."""


def stretches(log_probs: Tensor, most: int, *, blank: int = 0, delimiter: int = -1) -> list[Stretch]:
    """Cuts a long recording where nothing is said: in the longest pause between words, else in the longest pause.

    Args:
        log_probs: float [frames, symbols], natural logarithms.
        most: Frames of a stretch at most; it has half of them at least, but for the last one.
        blank: The symbol that means nothing.
        delimiter: The symbol between words; -1: none.
    """
    best = log_probs.argmax(1).cpu().numpy()
    quiet = (best == blank) | (best == delimiter)
    found, begin = [], 0
    while len(best) - begin > most:
        low, high = begin + most // 2, begin + most
        edges = np.flatnonzero(np.diff(quiet[low:high].astype(np.int8), prepend=0, append=0)) + low
        pauses = [
            (bool((best[a:b] == delimiter).any()), int(b - a), int(a + b) // 2)
            for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        ]
        between, _, at = max(pauses, default=(False, 0, low + int(log_probs[low:high, blank].argmax())))
        at = max(at, begin + 1)
        found.append(Stretch(begin, at, between))
        begin = at
    return [*found, Stretch(begin, len(best), False)]


class BeamSearch:
    """Prefix beam search (Hannun et al., 2014): the probability of a prefix is summed over its alignments.

    With a beam that holds every prefix the result is exact. Hypotheses are ordered by
    ln p(tokens | outputs) + lm_weight * ln p(words) + word_score * number of words.

    Args:
        symbols: What each symbol is written as, the blank included ([symbols]).
        beam: Prefixes that are kept after each frame.
        blank: The symbol that means nothing.
        language_model: Over words, where `delimiter` is a symbol; over symbols otherwise.
        delimiter: The symbol that stands between words ("|" or " "); None if every symbol is a word.
        lm_weight: Factor on the language model's logarithms, 0 or more.
        word_score: Added for each word: above 0 makes up for the model's dislike of many words.
        unknown_score: ln p of a word that the model does not know, if it has no `<unk>`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        beam: int = 50,
        blank: int = 0,
        language_model: NGram | None = None,
        delimiter: str | None = None,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
        unknown_score: float = -23.0,
    ) -> None:
        if beam < 1:
            raise ValueError(f"beam is {beam}; at least one prefix has to be kept")
        if not 0 <= blank < len(symbols):
            raise ValueError(f"blank is {blank}, but there are {len(symbols)} symbols")
        if not (math.isfinite(lm_weight) and lm_weight >= 0 and math.isfinite(word_score)):
            raise ValueError(f"lm_weight must be 0 or more and word_score a number, not {lm_weight} and {word_score}")
        if delimiter is not None and delimiter not in symbols:
            raise ValueError(f"delimiter is {delimiter!r}, which is none of the symbols")
        self.symbols = list(symbols)
        self._beam, self._blank, self._model = beam, blank, language_model
        self._unknown_score, self._lm_weight, self._word_score = unknown_score, lm_weight, word_score
        self._delimiter = -1 if delimiter is None else self.symbols.index(delimiter)
        self._lexicon: _C.Lexicon | None = None
        self._words: list[int] = []
        if language_model is not None and delimiter is not None:
            self._lexicon = self._spell(language_model)
        elif language_model is not None:
            self._words = [language_model.number(symbol) for symbol in symbols]

    def _spell(self, model: NGram) -> _C.Lexicon:
        """The words of the model that can be written with the symbols."""
        lexicon = _C.Lexicon()
        spellable = {
            symbol: i
            for i, symbol in enumerate(self.symbols)
            if len(symbol) == 1 and i not in (self._blank, self._delimiter)
        }
        for word, number in model.words.items():
            if word not in (BEGIN, END, UNKNOWN) and all(letter in spellable for letter in word):
                lexicon.add([spellable[letter] for letter in word], number)
        return lexicon

    def __call__(self, log_probs: Tensor, *, best: int = 1) -> list[Hypothesis]:
        """Decodes one sequence.

        Args:
            log_probs: float [frames, symbols], natural logarithms of the outputs.
            best: Hypotheses that are wanted, at most.

        Returns:
            The best first.

        Raises:
            ValueError: Another shape.
        """
        values = np.ascontiguousarray(_checked(log_probs, self._blank), dtype=np.float32)
        if values.shape[1] != len(self.symbols):
            raise ValueError(f"log_probs has {values.shape[1]} symbols, the decoder {len(self.symbols)}")
        model = self._model
        numbers = {} if model is None else model.words
        found = _C.ctc_beam_search(
            values.ctypes.data,
            values.shape[0],
            values.shape[1],
            self._blank,
            self._beam,
            None if model is None else model.compiled,
            self._lexicon,
            self._words,
            self._delimiter,
            numbers.get(BEGIN, -1),
            numbers.get(END, -1),
            -1 if model is None else model.number(UNKNOWN),
            self._unknown_score,
            self._lm_weight,
            self._word_score,
        )
        return [Hypothesis(tuple(tokens), acoustic, language) for tokens, acoustic, language in found[:best]]

    def text(self, hypothesis: Hypothesis) -> str:
        """What a hypothesis is written as: its symbols, with a space for the delimiter."""
        written = "".join(" " if token == self._delimiter else self.symbols[token] for token in hypothesis.tokens)
        return " ".join(written.split()) if self._delimiter >= 0 else written


def align(
    log_probs: Tensor, tokens: Sequence[int], *, blank: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """When each token is said, in the best single alignment.

    Args:
        log_probs: float [frames, symbols], natural logarithms.
        tokens: Without blanks.
        blank: The symbol that means nothing.

    Returns:
        The first frame of each token and the frame behind its last, int64 [tokens] each, and ln p of the alignment.

    Raises:
        ValueError: A token that is no symbol or the blank, or more tokens than fit into the frames.
    """
    values = np.ascontiguousarray(_checked(log_probs, blank), dtype=np.float32)
    frames, symbols = values.shape
    wanted = [int(token) for token in tokens]
    if any(not 0 <= token < symbols or token == blank for token in wanted):
        raise ValueError(f"tokens must lie in [0, {symbols}) and not be the blank {blank}, got {wanted}")
    first, behind = np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.int64)
    score: float = _C.ctc_align(
        values.ctypes.data, frames, symbols, blank, wanted, first.ctypes.data, behind.ctypes.data
    )
    if score == -math.inf:
        raise ValueError(f"{len(wanted)} tokens do not fit into {frames} frames with these outputs")
    return first, behind, score


def needed_frames(tokens: Sequence[int] | Tensor) -> int:
    """Frames that a target needs at least: one for each token, and a blank between equal neighbours."""
    values = torch.as_tensor(tokens)
    return len(values) + int((values[1:] == values[:-1]).sum())


def _checked(log_probs: Tensor, blank: int) -> NDArray[np.float64]:
    if log_probs.dim() != 2 or not log_probs.is_floating_point():
        raise ValueError(f"log_probs must be float [frames, symbols], got {log_probs.dtype} {list(log_probs.shape)}")
    if not 0 <= blank < log_probs.shape[1]:
        raise ValueError(f"blank is {blank}, but there are {log_probs.shape[1]} symbols")
    values: NDArray[np.float64] = log_probs.detach().double().cpu().numpy()
    if np.isnan(values).any() or (values == np.inf).any():
        raise ValueError("log_probs has values that are not logarithms of probabilities (nan or inf)")
    return values
