"""Probes: how well the labels of new samples are read off the features. No scikit-learn, nothing to tune.

Both probes standardise the features by the training part's mean and deviation first, so neither the scale of a channel
nor a mean that all samples share decides. What helps features of a network may hurt raw ones: pixels at the border that
hardly change count as much as the others then. So a floor of raw features should be tried with `standardize=False` too.

Labels are integers or strings: an array, a list or a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 10
"""k of the kNN probe."""

PENALTY = 1e-3
"""Factor on half the squared weights, beside the mean cross-entropy over the samples, of the logistic probe."""

PIECE = 1 << 22
"""Similarities that are held at a time, 32 MB of them."""

_ITERATIONS = 200

Labels = np.ndarray | Tensor | Sequence[int] | Sequence[str]
"""[N] integers or strings."""


def knn_correct(
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    k: int = NEIGHBOURS,
    *,
    standardize: bool = True,
) -> np.ndarray:
    """Which test samples the k nearest training samples name correctly.

    Neighbours are those of highest cosine similarity; each votes with its similarity; of equal votes the smaller
    label wins. The test samples are compared in pieces, so memory does not grow with N times M.

    Args:
        train: float [N, C], features of the training part.
        train_labels: [N] integers or strings.
        test: float [M, C].
        test_labels: [M], of the same kind; a label that no training sample has is never named.
        k: Neighbours; N of them if there are fewer.
        standardize: Subtract the training part's mean and divide by its standard deviation, for each channel.

    Returns:
        bool [M].

    Raises:
        ValueError: Shapes that do not fit, no samples, labels that are no classes, or features that are not finite.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least one neighbour has to vote")
    x, y, z, wanted = _checked(train, train_labels, test, test_labels, standardize)
    x, z = F.normalize(x, dim=1), F.normalize(z, dim=1)
    classes, correct, step = int(y.max()) + 1, [], max(1, PIECE // len(x))
    room = torch.empty(
        min(step, len(z)), len(x), dtype=x.dtype, device=x.device
    )  # one for all pieces: freed ones would pile up
    for some, names in zip(z.split(step), wanted.split(step), strict=True):
        similarity, nearest = torch.mm(some, x.T, out=room[: len(some)]).topk(min(k, len(x)), dim=1)
        votes = torch.zeros(len(some), classes, dtype=similarity.dtype, device=x.device)
        votes.scatter_add_(1, y[nearest], similarity)
        correct.append(votes.argmax(1) == names)
    return torch.cat(correct).numpy()


def logistic_correct(
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    penalty: float = PENALTY,
    *,
    standardize: bool = True,
) -> np.ndarray:
    """Which test samples a multinomial logistic regression names correctly.

    It minimises the mean cross-entropy plus penalty / 2 times the squared weights (not the biases), by L-BFGS.

    Args:
        train: float [N, C], features of the training part.
        train_labels: [N] integers or strings.
        test: float [M, C].
        test_labels: [M], of the same kind; a label that no training sample has is never named.
        penalty: The L2 penalty; scikit-learn's C is 1 / (N * penalty).
        standardize: Subtract the training part's mean and divide by its standard deviation, for each channel.

    Returns:
        bool [M].

    Raises:
        ValueError: Shapes that do not fit, no samples, labels that are no classes, or features that are not finite.
    """
    x, y, z, wanted = _checked(train, train_labels, test, test_labels, standardize)
    weight, bias = fit_logistic(x, y, penalty)
    return ((z @ weight + bias).argmax(1) == wanted).numpy()


def fit_logistic(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [C, classes] and biases [classes] of the regression in `logistic_correct`."""
    classes = int(y.max()) + 1
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
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
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    k: int = NEIGHBOURS,
    *,
    standardize: bool = True,
) -> float:
    """Share of the test samples in `knn_correct`."""
    return float(knn_correct(train, train_labels, test, test_labels, k, standardize=standardize).mean())


def logistic_accuracy(
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    penalty: float = PENALTY,
    *,
    standardize: bool = True,
) -> float:
    """Share of the test samples in `logistic_correct`."""
    return float(logistic_correct(train, train_labels, test, test_labels, penalty, standardize=standardize).mean())


def standard_error(values: np.ndarray, groups: Labels | None = None) -> float:
    """Standard error of the mean of `values`.

    For the accuracy of one probe give its `correct`; for the difference of two on the same samples the difference of
    theirs, which counts that they err on the same samples.

    Args:
        values: [M], one for each test sample.
        groups: [M]: samples of one group may depend on each other, those of different groups do not (the
            cluster-robust error with G / (G - 1)); None if all are independent.

    Raises:
        ValueError: Fewer than two samples or groups, or not one group for each sample.
    """
    off: np.ndarray = np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64)
    if groups is not None:
        members = np.asarray(groups)
        if members.shape != off.shape:
            raise ValueError(f"values and groups [M] are needed, got {list(off.shape)} and {list(members.shape)}")
        off = np.bincount(np.unique(members, return_inverse=True)[1], weights=off)
    if len(off) < 2:
        raise ValueError(f"a standard error needs two samples or groups, got {len(off)}")
    return float(np.sqrt((off**2).sum() * len(off) / (len(off) - 1)) / len(values))


def _checked(
    train: np.ndarray, train_labels: Labels, test: np.ndarray, test_labels: Labels, standardize: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features as float64, and labels as int64 numbers of classes, -1 where the training part does not have it."""
    x, z = features_of(train, "training part"), features_of(test, "test part")
    y, wanted = _labels(train_labels, len(x), "training part"), _labels(test_labels, len(z), "test part")
    if x.shape[1] != z.shape[1]:
        raise ValueError(f"training features have {x.shape[1]} channels, test features {z.shape[1]}")
    if (y.dtype.kind == "U") != (wanted.dtype.kind == "U"):
        raise ValueError(f"training labels are {y.dtype}, test labels {wanted.dtype}: both must be of one kind")
    classes, number = np.unique(y, return_inverse=True)
    place = np.searchsorted(classes, wanted).clip(max=len(classes) - 1)
    known = np.where(classes[place] == wanted, place, -1)
    if standardize:
        mean, scale = moments(x)
        x, z = (x - mean) / scale, (z - mean) / scale
    return torch.from_numpy(x), torch.from_numpy(number), torch.from_numpy(z), torch.from_numpy(known)


def features_of(features: Any, name: str) -> np.ndarray:
    """float64 [N, C].

    Raises:
        ValueError: They have another shape, there are none, or some are not finite.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: features [N, C] are needed, got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: some features are not finite")
    return array


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float64 [C]; 1 for the deviation of one that never changes."""
    std = features.std(0)
    return features.mean(0), np.where(std > 0, std, 1)


def _labels(labels: Labels, count: int, name: str) -> np.ndarray:
    """[N] integers or strings."""
    given = np.asarray(labels)
    if given.shape != (count,):
        raise ValueError(f"{name}: one label for each of {count} samples is needed, got an array {list(given.shape)}")
    if given.dtype == object and all(isinstance(label, str) for label in given):
        given = given.astype(str)
    if given.dtype.kind not in "iubU":
        raise ValueError(f"{name}: labels are {given.dtype}; classes are integers or strings")
    if given.dtype.kind == "U":
        return given
    if given.min() < 0:
        raise ValueError(f"{name}: labels count from 0, found {given.min()}; leave out samples without a label")
    return given.astype(np.int64)
