"""Transparent pictures."""

from __future__ import annotations

import torch
from torch import Tensor


def over(planes: Tensor, background: float | None) -> Tensor:
    """Lays a transparent picture on a background.

    Args:
        planes: uint8 [2 or 4, H, W], the last channel alpha: 0 where nothing is to be seen, 255 where all is.
        background: Grey value in [0, 1]; None only drops the alpha channel.

    Returns:
        uint8 [1 or 3, H, W], rounded to the nearest value.
    """
    if background is None:
        return planes[:-1]
    colours, alpha = planes[:-1].int(), planes[-1:].int()
    return ((colours * alpha + round(255 * background) * (255 - alpha) + 127) // 255).to(torch.uint8)
