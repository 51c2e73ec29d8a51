"""Linear probes: how well labels are read off the features by one linear map. No scikit-learn, nothing to tune.

Features are gone through in blocks, so memory grows with the number of channels, not with that of samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.evaluation.probe import Labels, numbered
from d2v_fast.evaluation.rows import Rows, pair

PENALTY = 1e-3
"""Factor on half the squared weights, beside the mean loss over the samples."""

_ITERATIONS = 200


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
    x, z = pair(train, test, standardize)
    y, wanted = numbered(train_labels, len(x), test_labels, len(z))
    weight, bias = fit_logistic(x, y, penalty)
    return (outputs(z, weight, bias).argmax(1) == wanted).numpy()


def tag_scores(
    train: np.ndarray,
    train_labels: np.ndarray | Tensor,
    test: np.ndarray,
    penalty: float = PENALTY,
    *,
    standardize: bool = True,
) -> np.ndarray:
    """Logits of each class by a logistic regression for each, float64 [M, classes].

    Args:
        train: float [N, C].
        train_labels: 0 or 1, [N, classes].
        test: float [M, C].
        penalty: See `logistic_correct`; the loss is the sum over the classes.
        standardize: See there.

    Raises:
        ValueError: See there.
    """
    y = torch.as_tensor(np.asarray(train_labels, dtype=np.float64))
    if y.ndim != 2 or len(y) != len(train):
        raise ValueError(f"training part: labels [{len(train)}, classes] are needed, got {list(y.shape)}")
    x, z = pair(train, test, standardize)
    return outputs(z, *_fit(x, y, y.shape[1], penalty, _binary)).numpy()


def ridge_values(
    train: np.ndarray,
    train_values: np.ndarray | Tensor,
    test: np.ndarray,
    penalty: float = PENALTY,
    *,
    standardize: bool = True,
) -> np.ndarray:
    """Values by a ridge regression, float64 [M]: half the mean squared error and penalty / 2 times squared weights.

    Args:
        train: float [N, C].
        train_values: [N].
        test: float [M, C].
        penalty: On standardised values: their scale does not matter.
        standardize: See `logistic_correct`.

    Raises:
        ValueError: See there.
    """
    y = torch.as_tensor(np.asarray(train_values, dtype=np.float64))
    if y.shape != (len(train),):
        raise ValueError(f"training part: one value for each of {len(train)} samples is needed, got {list(y.shape)}")
    x, z = pair(train, test, standardize)
    width, mean = x.shape[1], y.mean()
    squares, products = torch.zeros(width, width, dtype=y.dtype), torch.zeros(width, dtype=y.dtype)
    center = sum((block.sum(0) for _, block in x.blocks()), torch.zeros(width, dtype=y.dtype)) / len(x)
    for rows, block in x.blocks():
        off = block - center
        squares += off.T @ off
        products += off.T @ (y[rows] - mean)
    weight = torch.linalg.solve(squares / len(x) + penalty * torch.eye(width, dtype=y.dtype), products / len(x))
    return (outputs(z, weight[:, None], mean - center @ weight)[:, 0]).numpy()


def fit_logistic(x: Rows, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [C, classes] and biases [classes] of the regression in `logistic_correct`."""
    return _fit(x, y, int(y.max()) + 1, penalty, lambda z, wanted: F.cross_entropy(z, wanted, reduction="sum"))


def outputs(x: Rows, weight: Tensor, bias: Tensor) -> Tensor:
    """float64 [N, outputs] of a linear map."""
    return torch.cat([block @ weight + bias for _, block in x.blocks()])


def _binary(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def _fit(
    x: Rows, y: Tensor, count: int, penalty: float, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(x.shape[1], count, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        total = penalty / 2 * weight.square().sum()
        total.backward()
        total = total.detach()
        for rows, block in x.blocks():
            part = loss(block @ weight + bias, y[rows]) / len(x)
            part.backward()
            total += part.detach()
        return total

    solver.step(closure)
    return weight.detach(), bias.detach()


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
