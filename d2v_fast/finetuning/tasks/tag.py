"""Any number of classes for each sample: a yes or no for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.data.labelled import LabelKind
from d2v_fast.evaluation import metrics
from d2v_fast.finetuning.tasks.base import Score, SupervisedTask


def _map(outputs: np.ndarray, labels: np.ndarray) -> float:
    if not (labels > 0).any():
        raise ValueError("no sample has a class")
    return metrics.mean_average_precision(outputs, labels)


class Tag(SupervisedTask):
    """See `SupervisedTask`; labels are float32 [B, classes] of 0 and 1, or shares."""

    name = "tag"
    about: ClassVar[str] = "any number of classes for each sample (column labels); mean average precision"
    kind: ClassVar[LabelKind] = "multi"
    chooses: ClassVar[str] = "map"

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self.config.task.classes)

    @property
    def measures(self) -> Mapping[str, Score]:
        """Mean average precision over the classes."""
        return {"map": _map}

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over the classes; with the weights of a yes while training."""
        weights = self.class_weights if self.network.training else None
        losses = F.binary_cross_entropy_with_logits(outputs, labels.float(), reduction="none", pos_weight=weights)
        return losses.mean(1).sum()

    def read(self, outputs: np.ndarray) -> np.ndarray:
        """The probability of each class."""
        result: np.ndarray = 0.5 * (1 + np.tanh(0.5 * outputs))  # never overflows
        return result

    def unread(self, value: np.ndarray) -> np.ndarray:
        """Logits."""
        share = np.clip(value, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
        result: np.ndarray = np.log(share) - np.log1p(-share)
        return result

    def describe(self, read: np.ndarray) -> dict[str, Any]:
        """The classes that are likelier than not, and the probabilities of all."""
        classes = self.config.task.classes
        return {
            "labels": [name for name, share in zip(classes, read.tolist(), strict=True) if share > 0.5],
            "probabilities": dict(zip(classes, read.tolist(), strict=True)),
        }
