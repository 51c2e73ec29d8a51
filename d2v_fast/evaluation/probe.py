"""What the probes share: their labels, and how sure their results are.

Probes say how well the labels of new samples are read off the features. They standardise the features by the training
part's mean and deviation first, so neither the scale of a channel nor a mean that all samples share decides. What helps
features of a network may hurt raw ones: pixels at the border that hardly change count as much as the others then. So a
floor of raw features should be tried with `standardize=False` too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Labels = np.ndarray | Tensor | Sequence[int] | Sequence[str]
"""[N] integers or strings."""


def numbered(train_labels: Labels, count: int, test_labels: Labels, test_count: int) -> tuple[Tensor, Tensor]:
    """Labels as int64 numbers of classes, -1 for a test label that the training part does not have.

    Args:
        train_labels: [count] integers or strings.
        count: Training samples.
        test_labels: [test_count], of the same kind.
        test_count: Test samples.

    Raises:
        ValueError: They are no classes, of different kinds, or too few or too many.
    """
    y, wanted = _labels(train_labels, count, "training part"), _labels(test_labels, test_count, "test part")
    if (y.dtype.kind == "U") != (wanted.dtype.kind == "U"):
        raise ValueError(f"training labels are {y.dtype}, test labels {wanted.dtype}: both must be of one kind")
    classes, number = np.unique(y, return_inverse=True)
    place = np.searchsorted(classes, wanted).clip(max=len(classes) - 1)
    known = np.where(classes[place] == wanted, place, -1)
    return torch.from_numpy(number), torch.from_numpy(known)


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
