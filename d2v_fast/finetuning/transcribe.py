"""From the outputs of a recogniser to words with times, and a watch for one that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from d2v_fast.errors import ConfigError, DataError
from d2v_fast.finetuning.ctc import BeamSearch, Hypothesis, Stretch, align, greedy, spans, stretches
from d2v_fast.finetuning.ctc_config import Decoder
from d2v_fast.finetuning.flashlight import FlashlightSearch
from d2v_fast.finetuning.ngram import BEGIN, END, UNKNOWN, NGram, read_arpa
from d2v_fast.finetuning.vocabulary import DELIMITER, Vocabulary
from d2v_fast.log import tell

LONGEST = 3000
"""Frames that a search goes through at once: a minute at 20 ms. What it needs grows with the frames times the text."""

Search = Callable[[Tensor], Sequence[Hypothesis]]
"""float [frames, symbols], natural logarithms, to the best hypotheses."""


@dataclass(frozen=True)
class Word:
    """A word and when it is said."""

    text: str
    begin: float
    """Seconds from the beginning of the recording."""

    end: float


@dataclass(frozen=True)
class Transcript:
    """What was said."""

    text: str
    words: tuple[Word, ...]
    score: float
    """ln p of the text given the recording, and what a language model added."""

    def __str__(self) -> str:
        return self.text


class Transcriber:
    """Decodes and aligns.

    Args:
        vocabulary: Of the outputs.
        frame_seconds: From one frame to the next.
        language_model: An ARPA file; None: the best symbol of each frame is taken, if `beam` is 1.
        beam: Prefixes that the search keeps.
        lm_weight: See `BeamSearch`.
        word_score: See `BeamSearch`.
        decoder: Whose beam search.

    Raises:
        ConfigError: A language model without a beam, or a decoder that is not installed.
        DataError: The file is no language model, or is one of words where it should be of letters, or the reverse.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        frame_seconds: float,
        *,
        language_model: str | Path | None = None,
        beam: int = 1,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
        decoder: Decoder = "own",
    ) -> None:
        if language_model is not None and beam < 2:
            raise ConfigError(f"a language model needs a beam, but beam is {beam}: set it to 50, say")
        model = None if language_model is None else _fitting(Path(language_model), vocabulary)
        self.vocabulary, self.frame_seconds = vocabulary, frame_seconds
        self._delimiter = -1 if vocabulary.delimiter is None else vocabulary.symbols.index(vocabulary.delimiter)
        self._search: Search | None = None
        if decoder == "flashlight":
            self._search = FlashlightSearch(
                vocabulary, beam=beam, language_model=language_model, lm_weight=lm_weight, word_score=word_score
            )
        elif beam > 1:
            self._search = BeamSearch(
                vocabulary.symbols,
                beam=beam,
                language_model=model,
                delimiter=vocabulary.delimiter,
                lm_weight=lm_weight,
                word_score=word_score,
            )

    def __call__(self, logits: Tensor) -> Transcript:
        """Transcribes one recording.

        A search goes through more than `LONGEST` frames in stretches that are cut in pauses; a language model begins
        anew in each of them.

        Args:
            logits: [frames, symbols], outputs of the valid frames.
        """
        log_probs = F.log_softmax(logits.float(), dim=1)
        if self._search is None:
            best = greedy(log_probs)
            said = list(zip(best.tokens, *(part.tolist() for part in spans(log_probs)), strict=True))
            return self._transcript(said, best.score)
        said, score = [], 0.0
        for stretch, best in self._searched(log_probs):
            first, behind, _ = align(log_probs[stretch.begin : stretch.end], best.tokens)
            times = ((first + stretch.begin).tolist(), (behind + stretch.begin).tolist())
            said += zip(best.tokens, *times, strict=True)
            if stretch.word_ends:
                said.append((self._delimiter, stretch.end, stretch.end))
            score += best.score
        return self._transcript(said, score)

    def text(self, logits: Tensor) -> str:
        """The best text without times, logits as in `__call__`."""
        log_probs = F.log_softmax(logits.float(), dim=1)
        if self._search is None:
            return self.vocabulary.decode(greedy(log_probs).tokens)
        tokens: list[int] = []
        for stretch, best in self._searched(log_probs):
            tokens += [*best.tokens, *([self._delimiter] if stretch.word_ends else [])]
        return self.vocabulary.decode(tokens)

    def _searched(self, log_probs: Tensor) -> Iterator[tuple[Stretch, Hypothesis]]:
        """The stretches of a recording, and what is said in each."""
        assert self._search is not None
        for stretch in stretches(log_probs, LONGEST, delimiter=self._delimiter):
            yield stretch, self._search(log_probs[stretch.begin : stretch.end])[0]

    def _transcript(self, said: Sequence[tuple[int, int, int]], score: float) -> Transcript:
        """Of (token, first frame, frame behind its last)."""
        return Transcript(self.vocabulary.decode([token for token, _, _ in said]), tuple(self._words(said)), score)

    def _words(self, said: Sequence[tuple[int, int, int]]) -> list[Word]:
        """When the words are said; a script without a delimiter is one word."""
        words: list[Word] = []
        letters, begin, end = "", 0.0, 0.0
        for token, start, stop in [*said, (0, 0, 0)]:
            symbol = self.vocabulary.symbols[token]
            if token == 0 or symbol == DELIMITER:
                if letters:
                    words.append(Word(letters, begin, end))
                letters = ""
            elif len(symbol) == 1:
                begin = begin if letters else start * self.frame_seconds
                letters, end = letters + symbol, stop * self.frame_seconds
        return words


def _fitting(file: Path, vocabulary: Vocabulary) -> NGram:
    """The language model of a file, which scores something that a recogniser with this vocabulary can write.

    Raises:
        DataError: It cannot be read, or every word of it would be unknown.
    """
    model = read_arpa(file)
    words = [word for word in model.words if word not in (BEGIN, END, UNKNOWN, "<UNK>")]
    letters = {symbol for symbol in vocabulary.symbols[1:] if len(symbol) == 1 and symbol != DELIMITER}
    shown = " ".join(words[:3])
    shown = f"words such as {shown!r}" if words else "no words"
    if vocabulary.delimiter is None:
        why = f"this recogniser has no symbol {DELIMITER!r} between words, as no transcript of its training had a space"
        remedy = (
            "Make a model of the transcripts with a space between all letters, or fine-tune with a vocabulary "
            f"(ctc.vocabulary) that has {DELIMITER!r}"
        )
        if letters.isdisjoint(words):
            raise DataError(f"{file} has no letters as words, but {shown}, and {why}: no letter is known. {remedy}")
        longer = sum(len(word) > 1 for word in words)
        if 2 * longer > len(words):
            tell(
                f"{file} looks like a model of words, but {why}: each letter is scored as a word, and {longer} of "
                f"{len(words)} words never are. {remedy}"
            )
    elif not any(letters.issuperset(word) for word in words):
        raise DataError(
            f"no word of {file}, which has {shown}, can be written with the letters of this recogniser, "
            f"{''.join(sorted(letters))[:40]!r}: are they of the other case, upper or lower? Make a model of such words"
        )
    return model


class BlankWatch:
    """Notices that a recogniser says nothing at all, evaluation after evaluation.

    Args:
        after: Evaluations in a row before it is said.
    """

    def __init__(self, after: int = 3) -> None:
        self._after, self.count = after, 0

    def see(self, transcripts: Sequence[str]) -> str | None:
        """Takes the transcripts of an evaluation.

        Returns:
            What a person should be told; once, and not again until a word has come.
        """
        self.count = 0 if any(transcripts) or not transcripts else self.count + 1
        if self.count != self._after:
            return None
        return (
            f"every frame of all {len(transcripts)} recordings was blank in {self.count} evaluations in a row. For the "
            "first thousands of steps that is a stage that recognisers go through. If it stays: raise optim.lr or its "
            "warmup, give more steps, let more of the encoder learn (encoder.frozen, encoder.freeze_steps), and see "
            "that transcripts and recordings belong together"
        )
