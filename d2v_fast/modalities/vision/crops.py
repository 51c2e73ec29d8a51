"""Random crops of pictures, in whole pixels."""

from __future__ import annotations

import numpy as np

ATTEMPTS = 10
"""Tries at a random crop before the middle of the picture is taken, as torchvision has it."""


def crop_boxes(sizes: np.ndarray, u: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
    """Random resized crops by the algorithm of torchvision's RandomResizedCrop.

    Args:
        sizes: int64 [B, 2], height and width.
        u: float64 [B, 2 * ATTEMPTS + 2] in [0, 1): areas, ratios, the place down and across.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest width to height ratio; drawn evenly in its logarithm.

    Returns:
        int64 [B, 4]: top, left, height, width, within the picture. Where no draw fits, the largest box in
        the middle whose ratio is allowed.
    """
    full = sizes.astype(np.float64)
    areas = full.prod(axis=1, keepdims=True) * (scale[0] + (scale[1] - scale[0]) * u[:, :ATTEMPTS])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    ratios = np.exp(low + (high - low) * u[:, ATTEMPTS : 2 * ATTEMPTS])
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= full[:, 1:]) & (heights > 0) & (heights <= full[:, :1])
    rows, first = np.arange(len(sizes)), fits.argmax(axis=1)
    found = fits[rows, first]

    middle_height = np.minimum(full[:, 0], np.maximum(1, np.rint(full[:, 1] / ratio[0])))
    middle_width = np.minimum(full[:, 1], np.maximum(1, np.rint(full[:, 0] * ratio[1])))
    height = np.where(found, heights[rows, first], middle_height)
    width = np.where(found, widths[rows, first], middle_width)
    down, across = full[:, 0] - height, full[:, 1] - width
    top = np.where(found, np.floor(u[:, -2] * (down + 1)), down // 2)
    left = np.where(found, np.floor(u[:, -1] * (across + 1)), across // 2)
    return np.stack([top, left, height, width], axis=1).astype(np.int64)
