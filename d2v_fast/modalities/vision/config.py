"""Vision: how files become inputs, and inputs become tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from d2v_fast.checks import MISSING, Check
from d2v_fast.data.config import InputsConfig
from d2v_fast.models.config import EmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class VisionInputs(InputsConfig):
    """Pictures: a crop resized (bicubic), a flip, RandAugment, colour jitter (the published code jitters first)."""

    modality: ClassVar[str] = "vision"

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the picture's area in a crop; (1, 1) takes the whole picture."""

    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width to height ratio of a crop."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    jitter: float = 0.4
    """Brightness, contrast and saturation factors lie in [1 - jitter, 1 + jitter]; 0 switches them off."""

    randaugment: int = 0
    """Operations of RandAugment after the flip (published fine-tunings: 2, with jitter 0); 0: none."""

    randaugment_magnitude: float = 9.0
    """How far they go, 0 to 10."""

    erase: float = 0.0
    """Probability that a box of the picture is filled with noise (published fine-tunings: .25)."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel of a picture in [0, 1]."""

    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Each channel is divided by it."""

    background: float | None = field(default=1.0, metadata={MISSING: None})
    """Grey value in [0, 1] that transparent pictures are laid on (1: white); None drops the alpha channel, which shows
    whatever lies beneath, often black. A run that was begun before there was this field goes on without alpha."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.ordered_pair("crop_scale")
        check.require(self.crop_scale[1] <= 1, "crop_scale", "two shares of the area: above 0, at most 1")
        check.ordered_pair("crop_ratio")
        check.share("flip", "erase")
        check.at_least(0, "randaugment")
        check.require(self.randaugment == 0 or len(self.mean) in (1, 3), "randaugment", "0 but for 1 or 3 channels")
        check.require(0 <= self.randaugment_magnitude <= 10, "randaugment_magnitude", "between 0 and 10")
        check.at_least(0, "jitter")
        check.require(bool(self.mean) and all(map(math.isfinite, self.mean)), "mean", "a finite number per channel")
        good = bool(self.std) and all(0 < value < math.inf for value in self.std)
        check.require(good, "std", "a finite number above 0 per channel")
        if self.background is not None:
            check.share("background")


@dataclass(frozen=True, kw_only=True)
class VisionEmbedding(EmbeddingConfig):
    """Image to patches: one strided convolution, a class token, positions."""

    modality: ClassVar[str] = "vision"

    image_size: int = 224
    """Height and width of the image, in pixels."""

    patch_size: int = 16
    """Height and width of a patch, in pixels."""

    channels: int = 3
    """Colour channels."""

    positions: Literal["relative", "sincos"] = "relative"
    """A learned bias on relative positions, shared by all layers (the released 1.0 code), or fixed sine-cosine ones,
    added to the patches (data2vec 2.0), with which a short run learns where things are."""

    @property
    def class_token(self) -> bool:
        """See `EmbeddingConfig.class_token`."""
        return True

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "image_size", "patch_size", "channels")
        whole = self.image_size % self.patch_size == 0
        check.require(whole, "image_size", f"a multiple of {check.name}.patch_size, which is {self.patch_size}")

    @property
    def biases(self) -> bool:
        """See `EmbeddingConfig.biases`."""
        return self.positions == "relative"
