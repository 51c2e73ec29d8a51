"""The beam search of flashlight-text, for those who have it and ask for it; ours is in `ctc`.

With a language model over words it writes only words that the model knows and that can be spelled; without one, any
symbols. Its threshold is off, and its sums go over alignments, as ours do.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.errors import ConfigError, DataError
from d2v_fast.finetuning.ctc import Hypothesis
from d2v_fast.finetuning.ngram import BEGIN, END, UNKNOWN, read_arpa
from d2v_fast.finetuning.vocabulary import Vocabulary

_IMPOSSIBLE = -1e4
"""ln p of what cannot be, for a decoder that adds it up."""


class FlashlightSearch:
    """A search by flashlight-text's decoders.

    Args:
        vocabulary: Of the outputs; symbol 0 is the blank.
        beam: Hypotheses that are kept.
        language_model: An ARPA file: over words where the vocabulary has a delimiter, over symbols otherwise.
        lm_weight: Factor on its natural logarithms, as for our own search.
        word_score: Added for each word.

    Raises:
        ConfigError: flashlight-text is not installed, or lacks the language model's reader.
        DataError: The file is no language model, or one of single words, which KenLM does not read.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        beam: int,
        language_model: str | Path | None = None,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
    ) -> None:
        self._symbols = vocabulary.symbols
        self._delimiter = -1 if vocabulary.delimiter is None else self._symbols.index(vocabulary.delimiter)
        decoder = _module("flashlight.lib.text.decoder")
        silence = max(0, self._delimiter)  # none: the blank, which is taken out
        shared = {
            "beam_size": beam,
            "beam_size_token": len(self._symbols),
            "beam_threshold": 1e9,
            "lm_weight": lm_weight * math.log(10),  # its models give decimal logarithms
            "sil_score": 0.0,
            "log_add": True,
            "criterion_type": decoder.CriterionType.CTC,
        }
        self._kept: list[Any] = []  # what the decoder refers to has to live as long
        if language_model is None or self._delimiter < 0:
            model = decoder.ZeroLM() if language_model is None else self._over_symbols(Path(language_model))
            options = decoder.LexiconFreeDecoderOptions(**shared)
            self._kept += [model, options]
            self._decoder = decoder.LexiconFreeDecoder(options, model, silence, 0, [])
            return
        model, words, lexicon = self._over_words(Path(language_model))
        trie = self._trie(decoder, model, words, lexicon)
        options = decoder.LexiconDecoderOptions(**shared, word_score=word_score, unk_score=-math.inf)
        self._kept += [model, words, trie, options]
        self._decoder = decoder.LexiconDecoder(options, trie, model, silence, 0, words.get_index(UNKNOWN), [], False)

    def _over_symbols(self, path: Path) -> Any:
        dictionary = _module("flashlight.lib.text.dictionary")
        symbols = dictionary.create_word_dict({symbol: [[symbol]] for symbol in (*self._symbols, UNKNOWN)})
        return _kenlm(path, symbols)

    def _over_words(self, path: Path) -> tuple[Any, Any, dict[str, list[list[str]]]]:
        dictionary = _module("flashlight.lib.text.dictionary")
        letters = {
            symbol for i, symbol in enumerate(self._symbols) if len(symbol) == 1 and i not in (0, self._delimiter)
        }
        lexicon = {
            word: [[*word, self._symbols[self._delimiter]]]
            for word in read_arpa(path).words
            if word not in (BEGIN, END, UNKNOWN) and letters.issuperset(word)
        }
        words = dictionary.create_word_dict({**lexicon, UNKNOWN: []})
        return _kenlm(path, words), words, lexicon

    def _trie(self, decoder: Any, model: Any, words: Any, lexicon: dict[str, list[list[str]]]) -> Any:
        number = {symbol: i for i, symbol in enumerate(self._symbols)}
        trie = decoder.Trie(len(self._symbols), self._delimiter)
        start = model.start(False)
        for word, spellings in lexicon.items():
            index = words.get_index(word)
            _, score = model.score(start, index)
            for spelling in spellings:
                trie.insert([number[letter] for letter in spelling], index, score)
        trie.smear(decoder.SmearingMode.MAX)
        return trie

    def __call__(self, log_probs: Tensor) -> Sequence[Hypothesis]:
        """Decodes one sequence, float [frames, symbols] of natural logarithms; the best first."""
        values = log_probs.detach().float().cpu().clamp_min(_IMPOSSIBLE)
        if self._delimiter >= 0:  # words end with the delimiter, also the last one, behind the end
            values = F.pad(values, (0, 0, 0, 1), value=_IMPOSSIBLE)
            values[-1, self._delimiter] = 0.0
        emissions = np.ascontiguousarray(values.numpy())
        found = self._decoder.decode(emissions.ctypes.data, *emissions.shape)
        return [Hypothesis(self._tokens(one.tokens), float(one.score)) for one in found] or [Hypothesis((), -math.inf)]

    def _tokens(self, path: Sequence[int]) -> tuple[int, ...]:
        """A path without repetitions, blanks, and delimiters at the ends."""
        tokens = [token for token, _ in itertools.groupby(path) if token > 0]
        while tokens and tokens[-1] == self._delimiter:
            tokens.pop()
        while tokens and tokens[0] == self._delimiter:
            tokens.pop(0)
        return tuple(tokens)


def _kenlm(path: Path, words: Any) -> Any:
    reader = _module("flashlight.lib.text.decoder.kenlm")
    try:
        return reader.KenLM(str(path), words)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise DataError(f"{path} cannot be read by flashlight's language model: {reason}") from error


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # not there, or there and broken
        raise ConfigError(
            f"ctc.decoder is 'flashlight', but {name} cannot be imported ({type(error).__name__}: {error}): pip "
            "install flashlight-text (it has wheels for Python 3.11 and 3.12), or leave it out: ours does the same"
        ) from error
