"""Classes of very different sizes: weights in the loss, or samples drawn more often."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.labelled import Labelled
from d2v_fast.finetuning.data import labels_of


def class_weights(train: Labelled) -> Tensor:
    """float32 [classes]: how much an error on a class counts in the loss.

    One class for each sample: N / (classes * samples of the class), whose mean over the samples is 1; a class without a
    sample has 1. Any number of classes: the weight of a yes, samples without the class / samples with it.
    """
    labels, count = labels_of(train), len(train)
    sizes = torch.tensor(list(train.counts().values()), dtype=torch.float64)
    if train.kind == "multi":
        weights = (count - sizes) / sizes
    else:
        assert labels.dtype == torch.int64
        weights = count / (len(sizes) * sizes)
    return torch.where((sizes > 0) & (weights > 0), weights, 1.0).float()


def sample_weights(train: Labelled) -> np.ndarray:
    """float64 [N]: how often each sample is drawn, relative to the others, so that all classes are seen equally often.

    The sum over its classes of 1 / samples of the class. Samples of no class count as a class of their own.
    """
    labels = labels_of(train)
    if train.kind != "multi":
        labels = torch.nn.functional.one_hot(labels, len(train.classes))
    table = labels.double()
    table = torch.cat([table, (table.sum(1, keepdim=True) == 0).double()], dim=1)
    weights: np.ndarray = (table / table.sum(0).clamp(min=1)).sum(1).numpy()
    return weights
