"""How the samples of a plan are cut into batches: once for a run, the same in every epoch.

Where only the number of samples counts, batches are equal parts of an epoch's order. With a budget, the samples are
sorted by length, the longest first, and cut so that each batch holds its budget. An epoch changes their order within
windows of that sequence only: a window goes on as long as the lengths differ by no more than `_SPREAD`, but is at least
`_LEAST` of a batch, so that few samples mix too. Where the windows begin is moved in each epoch by up to a window, the
same share of each; so a sample comes from one window further ahead at most, and a batch whose length is that of the
first sample of the window before its own never holds more than the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.protocol import Sampling
from d2v_fast.errors import DataError

_SPREAD = 0.01
"""How much the lengths of a window may differ. With twice as much, batches of 20,000 clips have 0.8 instead of 0.4 % of
padding, and a tenth instead of a seventh of their pairs meet again in the next epoch."""

_LEAST = 0.5
"""Part of a batch that a window has at least."""


@dataclass(frozen=True)
class Layout:
    """The samples of a plan and their batches."""

    count: int
    """Samples."""

    longest: int
    """The most of a sample that is used, see `Sampling.longest`."""

    size: int
    """Samples of a batch, where there are no `ends`."""

    ids: np.ndarray | None = None
    """Integers [count], the samples; with `ends` sorted by length, the longest first. None: 0 ... count - 1."""

    ends: np.ndarray | None = None
    """int64, the place behind each batch."""

    windows: np.ndarray | None = None
    """int64, the first place of each window, from 0 on."""

    @property
    def batches(self) -> int:
        """Batches in an epoch; what is left over is no batch."""
        return self.count // self.size if self.ends is None else len(self.ends)

    def bounds(self, batch: int) -> tuple[int, int]:
        """The first place of a batch, and the one behind it."""
        if self.ends is None:
            return batch * self.size, (batch + 1) * self.size
        return 0 if batch == 0 else int(self.ends[batch - 1]), int(self.ends[batch])


def lay_out(
    known: np.ndarray, ids: np.ndarray, sampling: Sampling, config: LoaderConfig, *, fixed: bool = False
) -> Layout:
    """Cuts samples into batches.

    Args:
        known: The sizes of the whole source as `Sampling.known` gives them.
        ids: int64 [n], the samples to use, ascending.
        sampling: What the modality does with them.
        config: Batch size, and what a batch may hold.
        fixed: For samples that are taken in order, the longest first: without windows.

    Raises:
        DataError: No samples, or a batch that cannot hold one.
    """
    if len(ids) == 0:
        raise DataError("no samples are left to train on")
    largest, lengths = int(known.max()), sampling.lengths(known)
    budget = sampling.budget(config, largest)
    longest, size, count = sampling.longest(largest, budget), config.batch_size, len(ids)
    if lengths is None or (budget is None and not fixed):
        return Layout(count, longest, min(size, count), _narrow(ids, len(known)))
    mine = np.minimum(lengths[ids], longest)
    order = np.argsort(-mine, kind="stable")
    mine, ids = mine[order], ids[order]
    if budget is not None:
        size = max(1, min(size, budget // int(mine[-1])))
    narrow = _narrow(ids, len(known))
    if budget is None or mine[0] == mine[-1]:
        return Layout(count, longest, min(size, count), narrow)
    capacities = np.minimum(size, np.maximum(1, budget // mine))
    windows = None if fixed else _windows(mine, capacities)
    return Layout(count, longest, size, narrow, _ends(capacities, windows), windows)


def _narrow(ids: np.ndarray, samples: int) -> np.ndarray | None:
    """The ids in as few bytes as they need; None where they are all there are, in order."""
    if len(ids) == samples and bool((ids[1:] > ids[:-1]).all()):
        return None
    return ids.astype(np.uint32 if samples < 1 << 32 else np.int64)


def _windows(lengths: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """Where windows begin, in lengths sorted from the longest on. Lengths and samples of a batch [n]."""
    rising, count = lengths[::-1], len(lengths)
    starts, at = [0], 0
    while True:
        alike = count - int(np.searchsorted(rising, lengths[at] * (1 - _SPREAD)))
        at = max(alike, at + max(1, int(capacities[at] * _LEAST)))
        if at >= count:
            return np.array(starts, dtype=np.int64)
        starts.append(at)


def _ends(capacities: np.ndarray, windows: np.ndarray | None) -> np.ndarray:
    """Where batches end. The last one is not full: dropped, unless there is no other."""
    count, at = len(capacities), 0
    ends: list[int] = []
    while at < count:
        first = at
        if windows is not None:
            first = int(windows[max(0, int(np.searchsorted(windows, at, side="right")) - 2)])
        at += int(capacities[first])
        ends.append(at)
    if ends[-1] > count:
        ends = ends[:-1] or [count]
    return np.array(ends, dtype=np.int64)
