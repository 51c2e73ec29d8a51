"""One class for each sample: cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.data.labelled import LabelKind
from d2v_fast.evaluation import metrics
from d2v_fast.finetuning.tasks.base import Score, SupervisedTask


def _top5(outputs: np.ndarray, labels: np.ndarray) -> float:
    return metrics.accuracy(outputs, labels, top=5)


class Classify(SupervisedTask):
    """See `SupervisedTask`; labels are int64 [B], or shares of the classes float32 [B, classes]."""

    name = "classify"
    about: ClassVar[str] = "one class for each sample (column label, or class folders); accuracy"
    kind: ClassVar[LabelKind] = "class"
    chooses: ClassVar[str] = "accuracy"

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self.config.task.classes)

    @property
    def measures(self) -> Mapping[str, Score]:
        """Accuracy, F1, Matthews' coefficient; with more than five classes, top-5 accuracy too."""
        more = {"top5": _top5} if self.outputs > 5 else {}
        return {"accuracy": metrics.accuracy, "f1": metrics.f1, "matthews": metrics.matthews} | more

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in float32, with label smoothing and the weights of classes while training.

        Weights are not divided by their sum: so micro-batches of a step add up to the step's loss.
        """
        training, task = self.network.training, self.config.task
        return F.cross_entropy(
            outputs,
            labels,
            weight=self.class_weights if training else None,
            reduction="sum",
            label_smoothing=task.smoothing if training else 0.0,
        )

    def read(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities."""
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return result

    def unread(self, value: np.ndarray) -> np.ndarray:
        """Logarithms."""
        result: np.ndarray = np.log(np.maximum(value, np.finfo(np.float64).tiny))
        return result

    def describe(self, read: np.ndarray) -> dict[str, Any]:
        """The likeliest class, its probability, and those of all."""
        classes, best = self.config.task.classes, int(read.argmax())
        return {
            "label": classes[best],
            "probability": float(read[best]),
            "probabilities": dict(zip(classes, read.tolist(), strict=True)),
        }
