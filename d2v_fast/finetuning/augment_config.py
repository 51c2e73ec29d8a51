"""Settings of what is mixed and masked while training on labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d2v_fast.checks import Check, Section
from d2v_fast.masking import SpanMask


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """What is mixed and masked while training; crops, flips, colours and RandAugment of pictures are in `inputs`."""

    section: ClassVar[str] = "augment"

    mixup: float = 0.0
    """Mixup: share * sample + (1 - share) * another sample, and the same of their labels, with the share from
    Beta(mixup, mixup), drawn for each sample; 0: none."""

    cutmix: float = 0.0
    """Cutmix, pictures: a box of another picture, of an area of 1 - share from Beta(cutmix, cutmix); 0: none. Where
    both are on, each mixes half of the samples."""

    mix_probability: float = 1.0
    """Share of the samples that are mixed, where mixup or cutmix is on."""

    keep_power: bool = False
    """Mixup of sound: divide the mixture by the root of share ** 2 + (1 - share) ** 2, so that it stays as loud (as the
    released audio code does)."""

    mask_probability: float = 0.0
    """Signals over time: expected number of masked spans times their length, as a share of the frames; the mask token
    stands there. 0: none. (The task ctc has its own, `ctc.mask_probability`.)"""

    mask_length: int = 5
    """Frames in a span."""

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0

    @property
    def time_spans(self) -> SpanMask:
        """The mask over frames."""
        return SpanMask(probability=self.mask_probability, length=self.mask_length, min_spans=0)

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(0, "mixup", "cutmix")
        check.share("mix_probability", "mask_probability")
        check.at_least(1, "mask_length")
