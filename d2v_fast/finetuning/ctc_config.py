"""Settings of speech recognition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from d2v_fast.checks import MAY_CHANGE, Check, Section
from d2v_fast.finetuning.vocabulary import Case
from d2v_fast.masking import SpanMask

Decoder = Literal["own", "flashlight"]
"""Whose beam search."""


@dataclass(frozen=True, kw_only=True)
class CtcConfig(Section):
    """The task ctc: what is written, what is masked while training, and how the outputs are decoded."""

    section: ClassVar[str] = "ctc"

    vocabulary: str | None = None
    """A file of symbols (vocab.json, dict.ltr.txt, lines); None: the characters of the transcripts. Read at the first
    start, which keeps the symbols as `task.classes`."""

    case: Case = "keep"
    """What is done to the letters of transcripts: "upper", "lower" or "keep"."""

    mask_probability: float = 0.65
    """Time mask: expected number of spans times their length, as a share of the frames; 0: none."""

    mask_length: int = 10
    """Frames in a span (data2vec 2.0's later recipes: 3 to 5)."""

    channel_probability: float = 0.25
    """Channel mask: the same over channels, which are set to 0 in all frames; 0: none."""

    channel_length: int = 64
    """Channels in a span."""

    beam: int = field(default=1, metadata=MAY_CHANGE)
    """Prefixes that the beam search keeps; 1: the best symbol of each frame. May change."""

    language_model: str | None = field(default=None, metadata=MAY_CHANGE)
    """An n-gram model in ARPA format for the beam search. May change."""

    lm_weight: float = field(default=2.0, metadata=MAY_CHANGE)
    """Factor on the language model's logarithms. May change."""

    word_score: float = field(default=0.0, metadata=MAY_CHANGE)
    """Added for each word in the beam search. May change."""

    decoder: Decoder = field(default="own", metadata=MAY_CHANGE)
    """Whose beam search: this library's "own", or that of "flashlight", if flashlight-text is installed. May change."""

    blank_evaluations: int = field(default=5, metadata=MAY_CHANGE)
    """Validations in a row without a word after which it is said what to do. May change."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.share("mask_probability", "channel_probability")
        check.at_least(1, "mask_length", "channel_length", "beam", "blank_evaluations")
        check.at_least(0, "lm_weight")
        check.require(self.vocabulary != "", "vocabulary", "the path of a file, or None")
        check.require(self.decoder == "own" or self.beam > 1, "beam", "above 1 for the decoder flashlight (50, say)")
        check.require(self.language_model is None or self.beam > 1, "beam", "above 1 for a language model (50, say)")

    @property
    def time_spans(self) -> SpanMask:
        """The time mask."""
        return SpanMask(probability=self.mask_probability, length=self.mask_length, min_spans=0)

    @property
    def channel_spans(self) -> SpanMask:
        """The channel mask."""
        return SpanMask(probability=self.channel_probability, length=self.channel_length, min_spans=0)
