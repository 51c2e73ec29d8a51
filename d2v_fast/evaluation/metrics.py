"""How good predictions are: a number for each downstream task, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2v_fast import rng

Floats = NDArray[np.float64]


def accuracy(scores: ArrayLike, labels: ArrayLike, *, top: int = 1) -> float:
    """Share of samples whose label is among the `top` highest scores.

    Args:
        scores: [N, classes].
        labels: int [N].
        top: Classes that count as predicted.

    Raises:
        ValueError: Shapes that do not fit, no samples, or values that are not finite.
    """
    values, wanted = _scored(scores, labels)
    own = values[np.arange(len(wanted)), wanted]
    # A class that scores the same counts against the label: a constant output is not right.
    above = (values >= own[:, None]).sum(1) - 1
    return float((above < top).mean())


def f1(scores: ArrayLike, labels: ArrayLike) -> float:
    """F1: of class 1 where there are two classes, else the mean over the classes that occur.

    Args:
        scores: [N, classes]; the class with the highest score is predicted.
        labels: int [N].
    """
    table = confusion(scores, labels)
    hits = np.diag(table).astype(np.float64)
    total = table.sum(0) + table.sum(1)
    each = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    return float(each[1] if len(table) == 2 else each[total > 0].mean())


def matthews(scores: ArrayLike, labels: ArrayLike) -> float:
    """Matthews' correlation coefficient for any number of classes (Gorodkin, 2004); 0 for a constant prediction."""
    table = confusion(scores, labels).astype(np.float64)
    count, hits = table.sum(), np.trace(table)
    truth, guess = table.sum(1), table.sum(0)
    spread = (count**2 - (truth**2).sum()) * (count**2 - (guess**2).sum())
    return float((hits * count - (truth * guess).sum()) / np.sqrt(spread)) if spread > 0 else 0.0


def confusion(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """How often samples of class i are taken for class j: int64 [classes, classes]."""
    values, wanted = _scored(scores, labels)
    classes = values.shape[1]
    pairs = wanted * classes + values.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the precision-recall curve of each class, as a sum over its steps; nan for a class without samples.

    Args:
        scores: [N, classes].
        labels: 0 or 1, [N, classes]; a sample may have several classes, or none.

    Returns:
        float64 [classes].

    Raises:
        ValueError: Shapes that do not fit, no samples, or values that are not finite.
    """
    values, wanted = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or values.shape != wanted.shape or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"scores and labels must be finite [N, classes] of one shape, got {list(values.shape)} and "
            f"{list(wanted.shape)}"
        )
    result = np.full(values.shape[1], np.nan)
    for k in range(values.shape[1]):
        positive = wanted[:, k] > 0
        if not positive.any():
            continue
        order = np.argsort(-values[:, k], kind="stable")
        ranked, hits = values[order, k], np.cumsum(positive[order])
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # equal scores are one step of the curve
        precision = hits[ends] / (ends + 1)
        gained = np.diff(hits[ends], prepend=0) / hits[-1]
        result[k] = (precision * gained).sum()
    return result


def mean_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `average_precision` over the classes that have samples."""
    return float(np.nanmean(average_precision(scores, labels)))


def pearson(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    x, y = _paired(predictions, targets)
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / spread) if spread > 0 else 0.0


def spearman(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Spearman's rank correlation; equal values share their mean rank."""
    x, y = _paired(predictions, targets)
    return pearson(_ranks(x), _ranks(y))


def explained(predictions: ArrayLike, targets: ArrayLike) -> float:
    """The share of the targets' variance that is explained: 1 - squared errors / squared distances from the mean.

    0 is what their mean would reach, and of constant targets there is none.

    Raises:
        ValueError: See `pearson`; or the targets are constant.
    """
    x, y = _paired(predictions, targets)
    spread = ((y - y.mean()) ** 2).sum()
    if spread == 0:
        raise ValueError("all targets are equal: there is nothing to explain")
    return float(1 - ((x - y) ** 2).sum() / spread)


def edits(reference: Sequence[object], hypothesis: Sequence[object]) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions from one sequence to the other."""
    before = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        now = [i]
        for j, found in enumerate(hypothesis, 1):
            now.append(min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (wanted != found)))
        before = now
    return before[-1]


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Errors of all words over the number of all reference words; insertions on empty references count.

    Raises:
        ValueError: Not as many hypotheses as references, or no reference has a word.
    """
    return _rate([text.split() for text in references], [text.split() for text in hypotheses], "word")


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """The same of characters; runs of spaces count as one."""
    references, hypotheses = ([" ".join(text.split()) for text in texts] for texts in (references, hypotheses))
    return _rate(references, hypotheses, "character")


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    samples: int,
    *,
    groups: ArrayLike | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """A confidence interval by the percentile bootstrap (Efron, 1979).

    Args:
        statistic: From indices of samples, int64 with repetitions, to a number.
        samples: N, number of samples.
        groups: [N]; samples of one group are drawn together, since they are not independent (one speaker, one patient).
        draws: Repetitions.
        level: Of confidence.
        seed: Of the draws.

    Returns:
        Lower and upper bound.

    Raises:
        ValueError: Fewer than two samples or groups.
    """
    keys = np.arange(samples) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(keys) != samples:
        raise ValueError(f"groups has {len(keys)} entries for {samples} samples")
    count = int(keys.max(initial=-1)) + 1
    if count < 2:
        raise ValueError(f"a bootstrap needs two samples or groups, got {count}")
    members = np.split(np.argsort(keys, kind="stable"), np.cumsum(np.bincount(keys))[:-1]) if groups is not None else []
    values = np.empty(draws)
    for i in range(draws):
        chosen = (rng.uniform(seed, "bootstrap", 0, np.array([i]), count)[0] * count).astype(np.int64)
        values[i] = statistic(chosen if groups is None else np.concatenate([members[k] for k in chosen]))
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _rate(references: Sequence[Sequence[object]], hypotheses: Sequence[Sequence[object]], unit: str) -> float:
    if len(references) != len(hypotheses):
        raise ValueError(f"there are {len(references)} references and {len(hypotheses)} hypotheses")
    total = sum(map(len, references))
    if total == 0:
        raise ValueError(f"no reference has a {unit}: an error rate is a share of them")
    return sum(edits(wanted, found) for wanted, found in zip(references, hypotheses, strict=True)) / total


def _ranks(values: Floats) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts - 1) / 2)[places]


def _scored(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    values, wanted = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or wanted.shape != (len(values),) or len(values) == 0 or wanted.dtype.kind not in "iu":
        raise ValueError(
            f"scores [N, classes] and integer labels [N] are needed, got {list(values.shape)} and {wanted.dtype} "
            f"{list(wanted.shape)}"
        )
    if not np.isfinite(values).all():
        raise ValueError("some scores are not finite")
    if wanted.min() < 0 or wanted.max() >= values.shape[1]:
        raise ValueError(f"labels must lie in [0, {values.shape[1]}), found {wanted.min()} to {wanted.max()}")
    return values, wanted.astype(np.int64)


def _paired(predictions: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(predictions, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"two series of one length, at least 2, are needed, got {list(x.shape)} and {list(y.shape)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("some values are not finite")
    return x, y
