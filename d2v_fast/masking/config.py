"""What a mask is made of: one dataclass per algorithm (data2vec.md, "masking", names the papers' numbers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from d2v_fast.checks import Check, Section

MOST_VIEWS = 1024
"""Masked views of a sample, at most: beyond that it is a slip."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Section):
    """What the student does not see; one subclass for each algorithm."""

    section: ClassVar[str] = "mask"

    views: int = 1
    """V: so many masks are drawn for each sample, which all share one pass of the teacher (data2vec 2.0: 8 to 16)."""

    def check(self, check: Check) -> None:
        """See `Section.check`; a subclass calls it too."""
        check.require(1 <= self.views <= MOST_VIEWS, "views", f"1 to {MOST_VIEWS}")


@dataclass(frozen=True, kw_only=True)
class SpanMask(MaskConfig):
    """Speech: spans of fixed length at random starts, overlaps allowed (wav2vec 2.0, section 3.1)."""

    probability: float = 0.65
    """Expected number of spans times `length`, as a share of the sequence; overlaps make the masked share smaller."""

    length: int = 10
    """Frames in a span."""

    min_spans: int = 1
    """Spans placed in a sequence at least."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        check.share("probability")
        check.at_least(1, "length")
        check.at_least(0, "min_spans")


@dataclass(frozen=True, kw_only=True)
class FixedSpanMask(MaskConfig):
    """Speech: spans of fixed length, and single frames until an exact count is masked (data2vec 2.0, section 3.2)."""

    ratio: float = 0.5
    """Masked share of the frames; int(frames * ratio) are masked."""

    length: int = 5
    """Frames in a span."""

    adjust: float = 0.05
    """Added to the masked share when the number of spans is chosen, to make up for overlaps."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        _some_are_masked(check, self.ratio)
        check.share("adjust")
        check.at_least(1, "length")


@dataclass(frozen=True, kw_only=True)
class BlockMask(MaskConfig):
    """Images: rectangles are added until `count` patches are masked, an upper bound (BEiT, algorithm 1)."""

    count: int = 120
    """Masked patches, at most."""

    min_area: int = 16
    """Patches in a block, at least (unless fewer are left to mask)."""

    min_aspect: float = 0.3
    """Smallest height to width ratio of a block; the largest is its inverse."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        check.at_least(0, "count")
        check.at_least(1, "min_area")
        check.require(0.001 <= self.min_aspect <= 1, "min_aspect", "between 0.001 and 1")


@dataclass(frozen=True, kw_only=True)
class InverseBlockMask(MaskConfig):
    """Images: square blocks are kept and all else is masked, an exact count (data2vec 2.0, section 3.2)."""

    ratio: float = 0.8
    """Masked share of the patches; int(patches * (1 - ratio)) are kept."""

    block: int = 3
    """Side of a kept block, in patches."""

    adjust: float = 0.07
    """Added to the kept share when the number of blocks is chosen, to make up for overlaps."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        check.share("ratio", "adjust")
        check.at_least(1, "block")


@dataclass(frozen=True, kw_only=True)
class TokenMask(MaskConfig):
    """Text: BERT-style selection of tokens, or of spans of tokens, some kept and some replaced at random."""

    probability: float = 0.15
    """Selected share of the tokens (number of starts times `length`)."""

    length: int = 1
    """Tokens in a span; spans may overlap and are cut at the end of the sequence."""

    keep: float = 0.1
    """Share of the selected tokens that stay as they are."""

    random: float = 0.1
    """Share of the selected tokens that become a random token; the rest become the mask token."""

    random_from: Literal["vocabulary", "sequence"] = "vocabulary"
    """Where a random token is from: every id is as likely as any other, or every token of the same sequence; then how
    rare a token is does not tell that it is a wrong one, its neighbours do."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        check.share("probability", "keep", "random")
        check.at_least(1, "length")
        check.require(self.keep + self.random <= 1, "random", f"at most 1 - keep, {1 - self.keep:g}")


@dataclass(frozen=True, kw_only=True)
class RandomMask(MaskConfig):
    """Text: single tokens, each as likely as any other, an exact count (data2vec 2.0, section 3.2)."""

    ratio: float = 0.48
    """Masked share of the tokens; int(tokens * (1 - ratio)) are kept, one at least."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        super().check(check)
        _some_are_masked(check, self.ratio)


def _some_are_masked(check: Check, ratio: float) -> None:
    """Neither nothing nor everything."""
    check.require(0 < ratio < 1, "ratio", "above 0, or nothing would be masked, and below 1, or nothing would be kept")
