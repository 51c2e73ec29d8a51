"""Smooth-L1 loss of the masked positions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from d2v_fast import reference


def masked_smooth_l1(
    pred: Tensor,
    target: Tensor,
    rows: Tensor | None = None,
    *,
    beta: float,
    scale: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Smooth-L1 (beta > 0) or squared error (beta = 0), summed over channels, times `scale`."""
    return reference.masked_smooth_l1(pred, target, rows, beta=beta, scale=scale, reduction=reduction)
