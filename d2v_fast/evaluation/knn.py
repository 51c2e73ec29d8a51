"""Nearest neighbours by cosine similarity: what the labels of similar training samples say about a sample.

Both sides are compared in blocks, and only the best neighbours so far are kept: there is no matrix of all distances.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from d2v_fast.evaluation.probe import Labels, numbered
from d2v_fast.evaluation.rows import PIECE, Rows, pair

NEIGHBOURS = 10
"""k of the kNN probe."""

_QUERIES = 1024
"""Test samples that are compared at a time."""


def knn_correct(
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    k: int = NEIGHBOURS,
    *,
    standardize: bool = True,
    temperature: float | None = None,
) -> np.ndarray:
    """Which test samples the k nearest training samples name correctly.

    Of equal votes the smaller label wins.

    Args:
        train: float [N, C], features of the training part.
        train_labels: [N] integers or strings.
        test: float [M, C].
        test_labels: [M], of the same kind; a label that no training sample has is never named.
        k: Neighbours; N of them if there are fewer.
        standardize: Subtract the training part's mean and divide by its standard deviation, for each channel.
        temperature: A neighbour votes with exp(similarity / temperature) (Wu et al., 2018, take 0.07); None: with its
            similarity.

    Returns:
        bool [M].

    Raises:
        ValueError: Shapes that do not fit, no samples, labels that are no classes, or features that are not finite.
    """
    x, z = pair(train, test, standardize)
    y, wanted = numbered(train_labels, len(x), test_labels, len(z))
    weights, nearest = neighbours(x, z, k, temperature)
    correct, classes = [], int(y.max()) + 1
    pieces = (part.split(_QUERIES) for part in (weights, nearest, wanted))
    for some, index, names in zip(*pieces, strict=True):
        votes = torch.zeros(len(some), classes, dtype=some.dtype)
        votes.scatter_add_(1, y[index], some)
        correct.append(votes.argmax(1) == names)
    return torch.cat(correct).numpy()


def knn_values(
    train: np.ndarray,
    train_values: np.ndarray | Tensor,
    test: np.ndarray,
    k: int = NEIGHBOURS,
    *,
    standardize: bool = True,
    temperature: float | None = None,
) -> np.ndarray:
    """The mean of what the k nearest training samples have, weighted by their votes.

    Args:
        train: float [N, C].
        train_values: [N] or [N, K]: numbers, or 0 and 1 of classes, whose means are scores.
        test: float [M, C].
        k: See `knn_correct`, as for the next two.
        standardize: See there.
        temperature: See there.

    Returns:
        float64 [M] or [M, K].

    Raises:
        ValueError: See `knn_correct`.
    """
    x, z = pair(train, test, standardize)
    values = torch.as_tensor(np.asarray(train_values, dtype=np.float64))
    if len(values) != len(x):
        raise ValueError(f"training part: one value for each of {len(x)} samples is needed, got {len(values)}")
    weights, nearest = neighbours(x, z, k, temperature)
    weights = weights.clamp_min(0) + 1e-12  # a mean has no weights below 0
    shares = weights / weights.sum(1, keepdim=True)
    made = [
        torch.einsum("mk,mk...->m...", some, values[index])
        for some, index in zip(shares.split(_QUERIES), nearest.split(_QUERIES), strict=True)
    ]
    return torch.cat(made).numpy()


def neighbours(train: Rows, test: Rows, k: int, temperature: float | None = None) -> tuple[Tensor, Tensor]:
    """The votes of the k most similar training samples of each test sample, and their numbers, the most similar first.

    Returns:
        float64 [M, k] and int64 [M, k]; k is N if there are fewer. With a temperature the first vote is 1.

    Raises:
        ValueError: There is no neighbour, or the temperature is not above 0.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least one neighbour has to vote")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; it is a number above 0")
    k, step = min(k, len(train)), max(1, PIECE // _QUERIES)
    votes = torch.empty(len(test), k, dtype=torch.float64)
    numbers = torch.empty(len(test), k, dtype=torch.int64)
    room = torch.empty(
        min(_QUERIES, len(test)) * min(step, len(train)), dtype=torch.float64
    )  # freed ones would pile up
    for first in range(0, len(test), _QUERIES):
        queries = test.block(first, _QUERIES, unit=True)
        best, which = torch.empty(len(queries), 0, dtype=torch.float64), torch.empty(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(train), step):
            some = train.block(start, step, unit=True)
            out = room[: len(queries) * len(some)].view(len(queries), len(some))
            similarity = torch.mm(queries, some.T, out=out)
            found, index = similarity.topk(min(k, len(some)), dim=1)
            best, which = torch.cat([best, found], dim=1), torch.cat([which, index + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            which = which.gather(1, order)
        rows = slice(first, first + len(queries))
        votes[rows] = best if temperature is None else ((best - best[:, :1]) / temperature).exp()
        numbers[rows] = which
    return votes, numbers


def knn_accuracy(
    train: np.ndarray,
    train_labels: Labels,
    test: np.ndarray,
    test_labels: Labels,
    k: int = NEIGHBOURS,
    *,
    standardize: bool = True,
    temperature: float | None = None,
) -> float:
    """Share of the test samples in `knn_correct`."""
    correct = knn_correct(train, train_labels, test, test_labels, k, standardize=standardize, temperature=temperature)
    return float(correct.mean())
