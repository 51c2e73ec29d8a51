"""A number for each sample: squared error of standardised values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from d2v_fast.data.labelled import LabelKind
from d2v_fast.evaluation import metrics
from d2v_fast.finetuning.tasks.base import Score, SupervisedTask


class Regress(SupervisedTask):
    """See `SupervisedTask`; labels are float32 [B]. The network's output is (value - task.mean) / task.std."""

    name = "regress"
    about: ClassVar[str] = "a number for each sample (column target); squared error"
    kind: ClassVar[LabelKind] = "value"
    chooses: ClassVar[str] = "loss"

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    @property
    def measures(self) -> Mapping[str, Score]:
        """Correlations, and the mean absolute error in the unit of the labels."""
        return {
            "pearson": lambda outputs, labels: metrics.pearson(outputs[:, 0], labels),
            "spearman": lambda outputs, labels: metrics.spearman(outputs[:, 0], labels),
            "mae": lambda outputs, labels: float(np.abs(self.read(outputs)[:, 0] - labels).mean()),
        }

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error, in units of task.std squared."""
        task = self.config.task
        return (outputs[:, 0] - (labels.float() - task.mean) / task.std).square().sum()

    def read(self, outputs: np.ndarray) -> np.ndarray:
        """Values in the unit of the labels."""
        return outputs * self.config.task.std + self.config.task.mean

    def unread(self, value: np.ndarray) -> np.ndarray:
        """Standardised."""
        return (value - self.config.task.mean) / self.config.task.std

    def describe(self, read: np.ndarray) -> dict[str, Any]:
        """The value."""
        return {"value": float(read[0])}
