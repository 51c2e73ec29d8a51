"""How pictures become rows of a batch: crops, flips and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast import rng
from d2v_fast.data.config import LoaderConfig
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.crops import ATTEMPTS, crop_boxes
from d2v_fast.modalities.vision.randaugment import draw_erased, draw_operations, erase_
from d2v_fast.modalities.vision.transforms import picture_into

_COARSE, _SHRUNK = 64, 3
"""Inputs of fewer pixels than the first are coarse, and pictures that are larger by the second factor lose most."""


@dataclass(frozen=True)
class PicturePlan:
    """How pictures are cut: whole pixels, so that every engine cuts the same."""

    boxes: np.ndarray
    """int64 [B, 4]: top, left, height, width."""

    flips: np.ndarray
    """bool [B]: mirrored left to right."""

    colours: np.ndarray
    """float64 [B, 3]: factors of brightness, contrast and saturation."""

    operations: np.ndarray | None = None
    """float64 [B, count, 3], of RandAugment; see `draw_operations`. None: nothing is done."""

    erased: np.ndarray | None = None
    """int64 [B, 5], boxes that are erased; see `draw_erased`. None: none is."""

    lengths = None
    """Every row is full."""


class PictureSampling:
    """See `Sampling`.

    Args:
        inputs: How files become inputs.
        image_size: Height and width of the model's input, in pixels.
    """

    def __init__(self, inputs: VisionInputs, image_size: int) -> None:
        self.inputs, self.image_size = inputs, image_size

    def usable(self, sizes: np.ndarray) -> np.ndarray:
        """All of them."""
        return np.arange(len(sizes), dtype=np.int64)

    def known(self, sizes: np.ndarray) -> np.ndarray:
        """An unreadable picture counts as one of a single pixel."""
        return np.maximum(sizes, 1)

    def lengths(self, sizes: np.ndarray) -> np.ndarray | None:
        """All pictures are alike."""
        return None

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """Only the number of pictures counts."""
        return None

    def longest(self, longest: int, budget: int | None) -> int:
        """Of no use here."""
        return longest

    def draw(self, sizes: np.ndarray, ids: np.ndarray, most: int, seed: int, epoch: int) -> PicturePlan:
        """Crop boxes, flips, colour factors, operations and erased boxes; `sizes` is int64 [B, 2], height and width."""
        inputs = self.inputs
        u = rng.uniform(seed, "picture", epoch, ids, 2 * ATTEMPTS + 6)
        if inputs.crop_scale == (1, 1):
            boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        else:
            boxes = crop_boxes(sizes, u[:, : 2 * ATTEMPTS + 2], inputs.crop_scale, inputs.crop_ratio)
        flips = u[:, -4] < inputs.flip
        low = max(0.0, 1 - inputs.jitter)
        colours = low + (1 + inputs.jitter - low) * u[:, -3:]
        operations = erased = None
        if inputs.randaugment:
            operations = draw_operations(inputs.randaugment, inputs.randaugment_magnitude, ids, seed, epoch)
        if inputs.erase:
            erased = draw_erased(inputs.erase, self.image_size, ids, seed, epoch)
        return PicturePlan(boxes, flips, colours, operations, erased)

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """float32 [count, channels, S, S]."""
        return (count, len(self.inputs.mean), self.image_size, self.image_size), torch.float32

    def write(self, out: Tensor, sample: Any, details: PicturePlan, row: int, size: np.ndarray, name: str) -> None:
        """Crops, resizes, mirrors, changes, standardises and erases; see `picture_into`."""
        box, flip, colours = details.boxes[row], bool(details.flips[row]), details.colours[row]
        operations = None if details.operations is None else details.operations[row]
        picture_into(out, sample, box, flip, colours, size, self.inputs, name, operations)
        if details.erased is not None:
            erase_(out, details.erased[row])

    def remarks(self, sizes: np.ndarray, used: int) -> Sequence[str]:
        """Whether pictures are enlarged, or shrunk so far that little is left of them."""
        side, typical = self.image_size, int(np.median(sizes.min(axis=-1)))
        if typical < side:
            return [f"most pictures are smaller than the model's input of {side} pixels and are enlarged"]
        if side < _COARSE and typical >= _SHRUNK * side:
            return [
                f"most pictures are shrunk to {side} pixels, a small part of their detail (their shorter side is about "
                f"{typical}): a larger model.embedding.image_size shows more"
            ]
        return []
