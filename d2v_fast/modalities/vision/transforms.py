"""From a picture as it was read, and its plan, to what the model sees."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.errors import SampleError
from d2v_fast.modalities.vision.alpha import over
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.randaugment import operated

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the grey value (ITU-R 601, as JPEG, Pillow and torchvision have it)."""


def picture_into(
    out: Tensor,
    picture: np.ndarray | Tensor,
    box: np.ndarray,
    flip: bool,
    colours: np.ndarray,
    size: np.ndarray,
    inputs: VisionInputs,
    name: str,
    operations: np.ndarray | None = None,
) -> None:
    """Crops, resizes, mirrors, changes colours and standardises, in this order, and writes the result to `out`.

    RandAugment comes between the flip and the jitter.

    A deviation from the published code, which jitters the full picture before it crops: on the crop the jitter costs
    a fraction, and the contrast is taken about the mean grey of the crop instead of the picture. The order of the
    three colour changes is fixed; each is cut to [0, 255] but not rounded.

    Args:
        out: float32 [C, S, S].
        picture: uint8, an array [H, W] or [H, W, channels] or a tensor [channels, H, W].
        box: Top, left, height, width in pixels.
        flip: Mirror left to right.
        colours: Factors of brightness, contrast and saturation.
        size: Height and width that the plan counted on.
        inputs: Statistics, and whether there is jitter.
        name: For messages.
        operations: float64 [count, 3], of RandAugment, see `draw_operations`; None: nothing is done.

    Raises:
        SampleError: A picture of another size or number format.
    """
    image = _channels(planes(picture, name), len(out), name, inputs.background)
    if tuple(image.shape[1:]) != tuple(size):
        raise SampleError(name, f"is {image.shape[1]}x{image.shape[2]}, but the source said {size[0]}x{size[1]}")
    top, left, height, width = box.tolist()
    image = image[:, top : top + height, left : left + width]
    side = out.shape[1:]
    if (height, width) != tuple(side):
        # on uint8: several times cheaper than on floats, and as exact as Pillow
        image = F.interpolate(image[None], size=tuple(side), mode="bicubic", antialias=True)[0]
    if flip:
        image = image.flip(2)
    if operations is not None:
        image = operated(image, operations, inputs.mean)
    out.copy_(image)
    if inputs.jitter > 0 and len(out) == 3:
        jitter_(out, colours)
    out.sub_(_column(inputs.mean)).div_(_column(inputs.std))


def jitter_(image: Tensor, colours: np.ndarray) -> None:
    """Brightness, contrast about the mean grey, saturation, in place; float32 [3, H, W] in [0, 255]."""
    brightness, contrast, saturation = colours.tolist()
    image.mul_(brightness).clamp_(0, 255)
    image.sub_(mean := _grey(image).mean()).mul_(contrast).add_(mean).clamp_(0, 255)
    image.lerp_(_grey(image).expand_as(image), 1 - saturation).clamp_(0, 255)


def _grey(image: Tensor) -> Tensor:
    red, green, blue = image
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])[None]


@lru_cache(maxsize=16)
def _column(values: tuple[float, ...]) -> Tensor:
    """Values in [0, 1] for each channel, on the scale of 0 to 255: float32 [C, 1, 1]."""
    return (torch.tensor(values, dtype=torch.float64, device="cpu") * 255).to(torch.float32)[:, None, None]


def planes(picture: np.ndarray | Tensor, name: str) -> Tensor:
    """A picture, array or tensor, as uint8 [channels, H, W].

    Raises:
        SampleError: It has another number format or shape.
    """
    image = as_tensor(picture)
    if image.ndim == 2:
        image = image[None]
    elif not isinstance(picture, Tensor) and image.ndim == 3:
        image = image.permute(2, 0, 1)
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise SampleError(
            name, f"is {image.dtype} {list(image.shape)}; a picture is uint8 with two or three dimensions"
        )
    return image


def _channels(image: Tensor, wanted: int, name: str, background: float | None) -> Tensor:
    """Grey to colour, colour to grey; what is transparent is laid on the background."""
    have = image.shape[0]
    if have == wanted:
        return image
    if have in (2, 4):
        return _channels(over(image, background), wanted, name, background)
    if (have, wanted) == (1, 3):
        return image.expand(3, -1, -1)
    if (have, wanted) == (3, 1):
        return _grey(image.float()).round_().to(torch.uint8)
    raise SampleError(name, f"has {have} channels, the model takes {wanted}")
