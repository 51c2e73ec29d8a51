"""Losses by name: each a sum and the number that it is divided by, so that micro-batches can be added up first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """One part of what is minimised.

    A step's loss is the sum over its parts of weight * (sum of `sum`) / (sum of `count`); the sums in brackets run over
    all micro-batches and processes of the step.
    """

    sum: Tensor
    """[] float32, added up over everything that the loss counts."""

    count: int
    """What `sum` is divided by for the mean: masked positions, views, labels. Known on the host."""

    weight: float = 1.0
    """Factor on the mean."""


def total(losses: Mapping[str, Loss]) -> Tensor:
    """[]: the weighted sum of the means of one batch; the mean over nothing is 0."""
    means = [loss.weight * loss.sum / max(loss.count, 1) for loss in losses.values()]
    result = means[0]
    for mean in means[1:]:
        result = result + mean
    return result
