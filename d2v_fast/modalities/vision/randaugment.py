"""RandAugment (Cubuk et al., 2019) and random erasing (Zhong et al., 2017): what is drawn, and what is done with it.

The operations are torchvision's. Their ranges are those of the published fine-tunings, whose name for them is
"rand-m9-mstd0.5-inc1": each is done with probability 1/2, and the larger the magnitude, the further from the original.
Everything drawn is a function of (seed, epoch, sample id): torchvision's own classes draw from torch's global
generator, which the training uses at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from d2v_fast import rng
from d2v_fast.modalities.vision.crops import ATTEMPTS, crop_boxes

SPREAD = 0.5
"""Standard deviation of the magnitude, on its scale of 0 to 10."""

_ERASED_AREA, _ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)


def _affine(
    image: Tensor, fill: list[float], *, angle: float = 0.0, shift: tuple[int, int] = (0, 0), shear: tuple[float, float]
) -> Tensor:
    """`shear`: how far a row, or column, moves for each one further down, or right."""
    degrees = [math.degrees(math.atan(part)) for part in shear]
    moved: Tensor = TF.affine(
        image,
        angle,
        list(shift),
        1.0,
        degrees,
        interpolation=InterpolationMode.BILINEAR,
        fill=fill,
        center=[0.0, 0.0] if any(shear) else None,
    )
    return moved


def _solarize(image: Tensor, level: float) -> Tensor:
    threshold = 256 - round(256 * level)
    return image if threshold > 255 else TF.solarize(image, float(threshold))


def _solarize_add(image: Tensor, level: float) -> Tensor:
    return torch.where(image < 128, (image.int() + round(110 * level)).clamp(max=255).to(torch.uint8), image)


def _factor(level: float, sign: float) -> float:
    return max(0.1, 1 + 0.9 * level * sign)


Operation = Callable[[Tensor, float, float, list[float]], Tensor]
"""(uint8 [C, H, W], level in [0, 1], sign 1 or -1, the colour of what comes from outside) -> uint8 [C, H, W]."""

OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, level, sign, fill: TF.autocontrast(image),
    "equalize": lambda image, level, sign, fill: TF.equalize(image),
    "invert": lambda image, level, sign, fill: TF.invert(image),
    "rotate": lambda image, level, sign, fill: _affine(image, fill, angle=30 * level * sign, shear=(0, 0)),
    "posterize": lambda image, level, sign, fill: TF.posterize(image, 4 - int(4 * level)),
    "solarize": lambda image, level, sign, fill: _solarize(image, level),
    "solarize_add": lambda image, level, sign, fill: _solarize_add(image, level),
    "color": lambda image, level, sign, fill: TF.adjust_saturation(image, _factor(level, sign)),
    "contrast": lambda image, level, sign, fill: TF.adjust_contrast(image, _factor(level, sign)),
    "brightness": lambda image, level, sign, fill: TF.adjust_brightness(image, _factor(level, sign)),
    "sharpness": lambda image, level, sign, fill: TF.adjust_sharpness(image, _factor(level, sign)),
    "shear_x": lambda image, level, sign, fill: _affine(image, fill, shear=(0.3 * level * sign, 0)),
    "shear_y": lambda image, level, sign, fill: _affine(image, fill, shear=(0, 0.3 * level * sign)),
    "translate_x": lambda image, level, sign, fill: _affine(
        image, fill, shift=(round(0.45 * level * sign * image.shape[2]), 0), shear=(0, 0)
    ),
    "translate_y": lambda image, level, sign, fill: _affine(
        image, fill, shift=(0, round(0.45 * level * sign * image.shape[1])), shear=(0, 0)
    ),
}
"""The operations by name."""

_FUNCTIONS = tuple(OPERATIONS.values())


def draw_operations(count: int, magnitude: float, ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """What RandAugment does to these pictures.

    Args:
        count: Operations, one after the other.
        magnitude: 0 to 10.
        ids: int64 [B].
        seed: Of the run.
        epoch: Of the run.

    Returns:
        float64 [B, count, 3]: the number of the operation, or -1 for none; its level in [0, 1]; 1 or -1.
    """
    u = rng.uniform(seed, "randaugment", epoch, ids, 5 * count).reshape(len(ids), count, 5)
    normal = np.sqrt(-2 * np.log1p(-u[..., 2])) * np.cos(2 * np.pi * u[..., 3])
    chosen = np.where(u[..., 1] < 0.5, np.floor(u[..., 0] * len(OPERATIONS)), -1)
    level = np.clip(magnitude + SPREAD * normal, 0, 10) / 10
    return np.stack([chosen, level, np.where(u[..., 4] < 0.5, 1, -1)], axis=-1)


def operated(image: Tensor, operations: np.ndarray, mean: tuple[float, ...]) -> Tensor:
    """A picture after its operations.

    Args:
        image: uint8 [1 or 3, H, W].
        operations: float64 [count, 3], see `draw_operations`.
        mean: Of each channel, in [0, 1]: the colour of what comes from outside.
    """
    fill = [255 * value for value in mean]
    for which, level, sign in operations.tolist():
        if which >= 0:
            image = _FUNCTIONS[int(which)](image, level, sign, fill)
    return image


def draw_erased(probability: float, side: int, ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Which boxes are erased.

    Args:
        probability: Of a picture to lose a box.
        side: Height and width of the model's input, in pixels.
        ids: int64 [B].
        seed: Of the run.
        epoch: Of the run.

    Returns:
        int64 [B, 5]: top, left, height and width, the last two 0 for no box; and a seed for the noise.
    """
    u = rng.uniform(seed, "erase", epoch, ids, 2 * ATTEMPTS + 4)
    sizes = np.full((len(ids), 2), side, dtype=np.int64)
    boxes = crop_boxes(sizes, u[:, 2:], _ERASED_AREA, _ERASED_RATIO)
    boxes[u[:, 0] >= probability] = 0
    return np.concatenate([boxes, (u[:, 1:2] * 2**53).astype(np.int64)], axis=1)


def erase_(image: Tensor, erased: np.ndarray) -> None:
    """Fill the box with noise of mean 0 and variance 1, in place; float32 [C, S, S], standardised."""
    top, left, height, width, seed = erased.tolist()
    if height and width:
        noise = torch.Generator("cpu").manual_seed(seed)
        shape = (len(image), height, width)
        drawn = torch.randn(shape, generator=noise, dtype=torch.float32, device="cpu")
        image[:, top : top + height, left : left + width] = drawn
