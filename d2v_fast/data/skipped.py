"""Samples that cannot be read: named once, counted, and too many of them stop the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2v_fast.data.source import DataSource
from d2v_fast.errors import DataError, SampleError, TooManySkipped, failed
from d2v_fast.log import report

_FEW = 3
"""So many broken samples never stop a run (unless none is allowed): one of twenty is no reason to."""

_FIRST = 10_000
"""Samples that the share is taken of at least, if there are so many: among the first few handed out chance decides. (If
0.8 % are broken, more than 1 % of the first 1000 are in one run of five, and of the first 10,000 in one of 76.)
"""

_NAMED = 3
"""Broken samples that the error names."""


@dataclass(frozen=True)
class Known:
    """What is known of broken samples before anything is read."""

    usable: int
    """Samples that take part, broken ones among them."""

    broken: int
    """Samples of these that have no size."""

    first: Sequence[int]
    """Some of their numbers."""

    @staticmethod
    def of(sizes: np.ndarray, samples: np.ndarray) -> Known:
        """Counts the samples of unknown size.

        Args:
            sizes: `DataSource.sizes`.
            samples: int64 [n], those that take part.
        """
        found = np.asarray(sizes)[samples].reshape(len(samples), -1)
        broken = samples[(found == 0).any(axis=1)]
        return Known(len(samples), len(broken), broken[:_NAMED].tolist())


class Skipped:
    """The broken samples met so far. Each counts once, however many epochs it is met in.

    Args:
        source: Where samples come from.
        known: What is known already.
        most: `loader.max_skipped`, the share of broken samples that is let pass.

    Raises:
        DataError: `most` is no share.
        TooManySkipped: More samples are known to be broken before anything is read.
    """

    def __init__(self, source: DataSource, known: Known, most: float) -> None:
        if not 0 <= most <= 1:
            raise DataError(f"loader.max_skipped is {most}; it is a share of the samples, between 0 and 1")
        self._most, self._samples = most, known.usable
        self._reasons: dict[int, SampleError] = {}
        if known.broken > self._allowed(known.usable):
            raise self._error(known.broken, known.usable, [_reason(source, i) for i in known.first])
        lost = getattr(source, "lost", None)
        if lost is not None and lost.count > self._allowed(lost.total):
            raise self._error(lost.count, lost.total, [lost.first])

    def add(self, failures: Mapping[int, SampleError], handed_out: int) -> None:
        """Names those that are new on stderr, and stops a run that meets too many.

        Args:
            failures: What went wrong, by sample id.
            handed_out: Samples read or skipped so far. The share is taken of these, of the first 10,000 at least and
                of all samples at most.

        Raises:
            TooManySkipped: Names the first of them and the remedy.
        """
        for sample, error in failures.items():
            if sample not in self._reasons:
                self._reasons[sample] = error.alone()
                report(error.name, error.reason)
        seen = min(self._samples, max(handed_out, _FIRST))
        if len(self._reasons) > self._allowed(seen):
            raise self._error(len(self._reasons), seen, list(self._reasons.values())[:_NAMED])

    def _allowed(self, seen: int) -> float:
        return max(_FEW, self._most * seen) if self._most > 0 else 0

    def _error(self, broken: int, seen: int, first: Sequence[SampleError | str]) -> TooManySkipped:
        more = f"; and {broken - len(first)} more" if broken > len(first) else ""
        named = "; ".join(map(str, first)) + more
        return TooManySkipped(
            f"{broken} of {seen} samples cannot be read, more than loader.max_skipped {self._most:g} allows: {named}. "
            "If files are gone, put them back: the same command then continues the run. To go on without them, add "
            f"--loader.max-skipped {min(1.0, 2 * broken / seen):.2g}"
        )


def _reason(source: DataSource, sample: int) -> SampleError:
    """Why a sample without a size cannot be read."""
    try:
        source.read(sample)
    except Exception as error:
        return failed(source.name(sample), error)
    return SampleError(source.name(sample), "has no size")
