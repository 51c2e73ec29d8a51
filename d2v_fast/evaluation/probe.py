"""Probes: how well the labels of new samples are read off the features. No scikit-learn, nothing to tune.

Both probes standardise the features by the training part's mean and deviation first, so neither the scale of a channel
nor a mean that all samples share decides. Every network, and the raw features, are treated alike.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 10
"""k of the kNN probe."""

PENALTY = 1e-3
"""Factor on half the squared weights, beside the mean cross-entropy over the samples, of the logistic probe."""

_ITERATIONS = 200


def knn_correct(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, k: int = NEIGHBOURS
) -> np.ndarray:
    """Which test samples the k nearest training samples name correctly.

    Neighbours are those of highest cosine similarity; each votes with its similarity; of equal votes the smaller
    label wins.

    Args:
        train: float [N, C], features of the training part.
        train_labels: int [N], from 0.
        test: float [M, C].
        test_labels: int [M].
        k: Neighbours; N of them if there are fewer.

    Returns:
        bool [M].

    Raises:
        ValueError: Shapes that do not fit, no samples, or features that are not finite.
    """
    x, y, z, wanted = _checked(train, train_labels, test, test_labels)
    x, z = F.normalize(x, dim=1), F.normalize(z, dim=1)
    similarity, nearest = (z @ x.T).topk(min(k, len(x)), dim=1)
    votes = torch.zeros(len(z), int(y.max()) + 1, dtype=similarity.dtype)
    votes.scatter_add_(1, y[nearest], similarity)
    return (votes.argmax(1) == wanted).numpy()


def logistic_correct(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, penalty: float = PENALTY
) -> np.ndarray:
    """Which test samples a multinomial logistic regression names correctly.

    It minimises the mean cross-entropy plus penalty / 2 times the squared weights (not the biases), by L-BFGS.

    Args:
        train: float [N, C], features of the training part.
        train_labels: int [N], from 0.
        test: float [M, C].
        test_labels: int [M].
        penalty: The L2 penalty; scikit-learn's C is 1 / (N * penalty).

    Returns:
        bool [M].

    Raises:
        ValueError: Shapes that do not fit, no samples, or features that are not finite.
    """
    x, y, z, wanted = _checked(train, train_labels, test, test_labels)
    weight, bias = fit_logistic(x, y, penalty)
    return ((z @ weight + bias).argmax(1) == wanted).numpy()


def fit_logistic(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [C, classes] and biases [classes] of the regression in `logistic_correct`."""
    classes = int(y.max()) + 1
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach(), bias.detach()


def knn_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, k: int = NEIGHBOURS
) -> float:
    """Share of the test samples in `knn_correct`."""
    return float(knn_correct(train, train_labels, test, test_labels, k).mean())


def logistic_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, penalty: float = PENALTY
) -> float:
    """Share of the test samples in `logistic_correct`."""
    return float(logistic_correct(train, train_labels, test, test_labels, penalty).mean())


def standard_error(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Standard error of the mean of `values`.

    For the accuracy of one probe give its `correct`; for the difference of two on the same samples the difference of
    theirs, which counts that they err on the same samples.

    Args:
        values: [M], one for each test sample.
        groups: int [M]: samples of one group may depend on each other, those of different groups do not (the
            cluster-robust error with G / (G - 1)); None if all are independent.

    Raises:
        ValueError: Fewer than two samples or groups.
    """
    off: np.ndarray = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    if groups is not None:
        off = np.bincount(np.unique(groups, return_inverse=True)[1], weights=off)
    if len(off) < 2:
        raise ValueError(f"a standard error needs two samples or groups, got {len(off)}")
    return float(np.sqrt((off**2).sum() * len(off) / (len(off) - 1)) / len(values))


def _checked(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised float64 features and int64 labels."""
    for name, features, labels in (("training", train, train_labels), ("test", test, test_labels)):
        if features.ndim != 2 or labels.shape != (len(features),) or len(features) == 0:
            raise ValueError(
                f"{name} part: features [N, C] and labels [N] are needed, got {list(features.shape)} and "
                f"{list(labels.shape)}"
            )
        if not np.isfinite(features).all():
            raise ValueError(f"{name} part: some features are not finite")
        if labels.min() < 0:
            raise ValueError(f"{name} part: labels count from 0, found {labels.min()}")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"training features have {train.shape[1]} channels, test features {test.shape[1]}")
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    scale = np.where(std > 0, std, 1)  # a channel that never changes says nothing
    x, z = (torch.from_numpy((part - mean) / scale) for part in (train, test))
    return x, torch.from_numpy(train_labels.astype(np.int64)), z, torch.from_numpy(test_labels.astype(np.int64))
