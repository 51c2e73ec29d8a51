"""n-gram language models with backoff, read from ARPA files (Katz, 1987; the format of the CMU and SRI toolkits)."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from d2v_fast import _C
from d2v_fast.errors import DataError

MAX_ORDER = 8
"""Words of the longest n-gram that is read."""

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"

_LN10 = math.log(10)


class NGram:
    """A language model; made by `read_arpa`.

    Attributes:
        words: The number of each word.
        order: Words of the longest n-gram.
        compiled: The model as the decoder uses it.
    """

    def __init__(self, order: int) -> None:
        self.words: dict[str, int] = {}
        self.order = order
        self.compiled = _C.NGram(order)

    def number(self, word: str) -> int:
        """The number of a word, of `<unk>` for one that the model does not know, -1 where it has no `<unk>` either."""
        return self.words.get(word, self.words.get(UNKNOWN, self.words.get("<UNK>", -1)))

    def score(self, words: Sequence[str]) -> list[float]:
        """Ln p of each word of a sentence, given the words before it; `<s>` is put in front, `</s>` is not added.

        Raises:
            ValueError: A word that is not in a model without `<unk>`.
        """
        numbers = [self.number(word) for word in words]
        if -1 in numbers:
            raise ValueError(f"the model does not know {words[numbers.index(-1)]!r} and has no {UNKNOWN}")
        scores: list[float] = self.compiled.score_words(self.words.get(BEGIN, -1), numbers)
        return scores


def read_arpa(path: str | Path) -> NGram:
    """Reads a language model.

    Args:
        path: An ARPA file, plain or compressed by gzip (.gz).

    Raises:
        DataError: There is no such file, or it is no ARPA file; the message names the line.
    """
    file = Path(path).expanduser()
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            return _read(lines, file)
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 ({error.reason}): convert it") from error


def _read(lines: TextIO, file: Path) -> NGram:
    counts: dict[int, int] = {}
    model: NGram | None = None
    length = 0  # words of the n-grams of the section that is being read
    found: list[tuple[list[int], float, float]] = []

    def close() -> None:
        """Hands the section over, after a look at its number of n-grams."""
        if model is None or length == 0:
            return
        if len(found) != counts[length]:
            raise DataError(f"{file} announces {counts[length]} {length}-grams and has {len(found)}: it is cut off")
        if found:
            model.compiled.add(
                np.array([words for words, _, _ in found], dtype=np.int32),
                np.array([probability for _, probability, _ in found], dtype=np.float32),
                np.array([backoff for _, _, backoff in found], dtype=np.float32),
            )
        found.clear()

    ended = begun = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        where = f"{file}, line {number}"
        if not text:
            continue
        if not begun:
            begun = text == "\\data\\"  # what stands before is a comment
        elif text == "\\end\\":
            close()
            ended = True
            break
        elif text.startswith("ngram ") and model is None:
            order, _, count = text[6:].partition("=")
            if not (order.strip().isdigit() and count.strip().isdigit()):
                raise DataError(f"{where}: {text!r} should be like 'ngram 2=1000'")
            counts[int(order)] = int(count)
        elif text.startswith("\\") and text.endswith("-grams:"):
            close()
            if model is None:
                if sorted(counts) != list(range(1, len(counts) + 1)) or not 1 <= len(counts) <= MAX_ORDER:
                    raise DataError(f"{where}: the file announces orders {sorted(counts)}; 1 to {MAX_ORDER} are read")
                model = NGram(len(counts))
            if text[1:-7] != str(length + 1):
                raise DataError(f"{where}: {text} comes where \\{length + 1}-grams: should")
            length += 1
        elif model is None:
            raise DataError(f"{where}: {text!r} comes before any n-grams")
        else:
            found.append(_ngram(text, length, model, where))
    if model is None or not ended:
        raise DataError(f"{file} is no ARPA file, or is cut off: \\data\\ or \\end\\ is missing")
    return model


def _ngram(text: str, length: int, model: NGram, where: str) -> tuple[list[int], float, float]:
    """Numbers of the words, ln of the probability and of the backoff weight."""
    parts = text.split()
    try:
        probability = float(parts[0])
        backoff = float(parts[length + 1]) if len(parts) > length + 1 else 0.0
    except (ValueError, IndexError):
        probability = backoff = math.nan
    if len(parts) not in (length + 1, length + 2) or math.isnan(probability) or math.isnan(backoff) or probability > 0:
        raise DataError(f"{where}: {text!r} should be a logarithm, {length} words and perhaps a backoff weight")
    words = parts[1 : length + 1]
    if length == 1:
        model.words.setdefault(words[0], len(model.words))
    try:
        return [model.words[word] for word in words], probability * _LN10, backoff * _LN10
    except KeyError as error:
        raise DataError(f"{where}: {error.args[0]!r} is not among the 1-grams") from error
