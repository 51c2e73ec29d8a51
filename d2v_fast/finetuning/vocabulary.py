"""What a speech recogniser writes with: the blank, letters, and a delimiter between words."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2v_fast.data.paths import expanded
from d2v_fast.errors import DataError

BLANK = "<pad>"
"""What symbol 0 is called, as Hugging Face's CTC models have it; fairseq's dictionaries leave it out."""

DELIMITER = "|"

LACKING = "\N{REPLACEMENT CHARACTER}"
"""Stands for a character without a symbol."""

Case = Literal["keep", "upper", "lower"]
"""What is done to the letters of a text before it is written."""

_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
"""What a dictionary of fairseq begins with and does not say; its blank is the first of them."""


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by number. Symbol 0 is the blank; a symbol of more than one character, such as `<unk>`, is in no text."""

    symbols: tuple[str, ...]
    """Different from each other, the blank first."""

    case: Case = "keep"

    def __post_init__(self) -> None:
        twice = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
        if twice:
            raise DataError(f"the vocabulary has {twice[0]!r} twice")
        odd = [s for s in self.symbols[1:] if len(s) != 1 and not (s.startswith("<") and s.endswith(">"))]
        if odd:
            raise DataError(f"the vocabulary has the symbol {odd[0]!r}: a symbol is one character, or special (<unk>)")
        if not any(len(symbol) == 1 and symbol != DELIMITER for symbol in self.symbols[1:]):
            raise DataError("the vocabulary has no characters")

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def delimiter(self) -> str | None:
        """The symbol between words; None where the script has none."""
        return DELIMITER if DELIMITER in self.symbols else None

    @staticmethod
    def of_texts(texts: Iterable[str], *, case: Case = "keep") -> Vocabulary:
        """The characters of a corpus, sorted, after the blank and, where a text has a space, the delimiter.

        Raises:
            DataError: The texts have no characters.
        """
        found = {character for text in texts for character in written(text, case)}
        delimiter = (DELIMITER,) if " " in found else ()
        return Vocabulary((BLANK, *delimiter, *sorted(found - {" ", DELIMITER})), case)

    @staticmethod
    def load(file: str | Path, *, case: Case = "keep") -> Vocabulary:
        """Reads a vocabulary file.

        Args:
            file: Hugging Face's vocab.json, {"<pad>": 0, "|": 4, "E": 5, ...}, whose symbol 0 is the blank; or lines
                of a symbol each, with a count behind it or not (fairseq's dict.ltr.txt). Such a file has no special
                symbols: the blank is put before the first, and with counts fairseq's four, of which `<s>` is the blank.
            case: Of the texts that will be written with it.

        Raises:
            DataError: It cannot be read, or is none.
        """
        path = expanded(file, "vocabulary")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"vocabulary: {path} cannot be read: {error}") from error
        if path.suffix.lower() == ".json":
            return Vocabulary(_of_json(path, text), case)
        lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
        fields = [line.split(" ") for line in lines]
        if lines and all(len(field) == 2 and field[1].isdigit() for field in fields):
            return Vocabulary((*_FAIRSEQ, *(field[0] for field in fields)), case)
        return Vocabulary((BLANK, *(line for line in lines if line != BLANK)), case)

    def encode(self, text: str) -> tuple[list[int], str]:
        """The numbers of a text's characters, and the characters that have none ("" if all have).

        A character without a symbol has the number `len(self)`, which is none.
        """
        number = self._numbers
        # a bar in a text is a character like any other, and no delimiter
        number[" "] = number.pop(DELIMITER, -1)
        letters = written(text, self.case)
        if number[" "] < 0:
            letters = letters.replace(" ", "")
        unknown = dict.fromkeys(c for c in letters if c not in number)
        return [number.get(c, len(self)) for c in letters], "".join(unknown)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of numbers without blanks and repetitions; special symbols are left out.

        `len(self)` is written as U+FFFD, which no recogniser says: as a reference it is an error.
        """
        symbols = (*self.symbols, LACKING)
        letters = "".join(symbols[token] for token in tokens if len(symbols[token]) == 1 and token != 0)
        return " ".join(letters.replace(DELIMITER, " ").split()) if self.delimiter else letters

    def explain(self, unknown: Iterable[str]) -> str:
        """What to do about characters that are not in the vocabulary."""
        known, lacking = set(self.symbols), sorted(set(unknown))
        shown = ", ".join(repr(c) for c in lacking[:10]) + (", ..." if len(lacking) > 10 else "")
        for case, change in (("upper", str.upper), ("lower", str.lower)):
            if any(change(c) != c and change(c) in known for c in lacking):
                return f"the vocabulary lacks {shown}, but has letters of them in {case} case: set ctc.case to {case!r}"
        return f"the vocabulary lacks {shown}: add them, or take them out of the transcripts"

    @property
    def _numbers(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols) if i > 0 and len(symbol) == 1}


def written(text: str, case: Case = "keep") -> str:
    """A text as it is written with a vocabulary: composed characters (NFC), single spaces, upper or lower case."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text


def _of_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"vocabulary: {path} is damaged: {error}") from error
    if isinstance(found, list) and all(isinstance(symbol, str) for symbol in found):
        return tuple(found)
    numbers = list(found.values()) if isinstance(found, dict) else []
    if not numbers or any(type(n) is not int for n in numbers) or sorted(numbers) != list(range(len(numbers))):
        raise DataError(f"vocabulary: {path} is no object of symbols with the numbers from 0 on, without gaps")
    symbols = tuple(sorted(found, key=found.__getitem__))
    # fairseq's order with Hugging Face's names: whatever symbol 0 is called, it must not be one of the text's
    if len(symbols[0]) == 1:
        raise DataError(f"vocabulary: symbol 0 of {path} is {symbols[0]!r}, but 0 is the blank: call it {BLANK!r}")
    return symbols
