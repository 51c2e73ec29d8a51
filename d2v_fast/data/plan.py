"""The plan: which samples make up a micro-batch, and what becomes of each: crops, flips, colours, windows.

Everything here is a pure function of (sizes, configuration, seed, micro-batch number): no state is kept, so a run
resumes from its step number, and threads or read-ahead change nothing. Micro-batches are counted through all epochs:
micro-batch m belongs to epoch m // batches_per_epoch, and step n is made of the `accumulation` micro-batches from
n * accumulation on. Several processes share these (`deal.py`), so the samples of a step and of an epoch are the same
for any number of them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from d2v_fast import rng
from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.protocol import Details, Sampling
from d2v_fast.errors import DataError

VALIDATION_EPOCH = (1 << 31) - 1
"""The epoch that crops, windows and masks of the held-out samples are drawn for, always the same one."""

_LENGTH_NOISE = 0.01
"""Spread of the key that samples are sorted by, relative to their length: neighbours change from epoch to epoch."""


@dataclass(frozen=True)
class BatchPlan:
    """One micro-batch before anything is read."""

    ids: np.ndarray
    """int64 [B], samples of the source."""

    epoch: int
    """Keys what is random about a sample: crops, windows, masks."""

    details: Details
    """What becomes of each sample; its modality's."""


class Plan:
    """The micro-batches of all epochs.

    Args:
        sizes: int64 [N] or [N, k], `DataSource.sizes` of the whole source.
        ids: int64 [n], the samples to use.
        sampling: What the modality does with them.
        config: Batch size, what a batch may hold, and the micro-batches of a step.
        seed: Of the run.
        weights: float64 [n], how often each of `ids` is drawn, relative to the others. An epoch then has as many
            samples as before: those of a large weight several times, others in some epochs only. None: each once.

    Raises:
        DataError: No samples, or a batch that cannot hold one.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        ids: np.ndarray,
        sampling: Sampling,
        config: LoaderConfig,
        seed: int,
        weights: np.ndarray | None = None,
    ) -> None:
        if len(ids) == 0:
            raise DataError("no samples are left to train on")
        self._expected = None if weights is None else len(ids) * weights / weights.sum()
        self._sampling, self._seed, self._ids = sampling, seed, ids
        self._sizes = sampling.known(np.asarray(sizes, dtype=np.int64))
        self._lengths = sampling.lengths(self._sizes)
        self._accumulation = config.accumulation
        longest = int(self._sizes.max())
        self._budget = sampling.budget(config, longest)
        self._longest = sampling.longest(longest, self._budget)
        self._cut(config.batch_size)
        self._lock = threading.Lock()
        self._orders: dict[int, list[np.ndarray]] = {}  # of draws, see `_draws`

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches in every epoch, as many as make whole steps, if the samples are enough for one.

        The samples that are left are dropped, others in each epoch.
        """
        count = len(self._ends)
        return count - count % self._accumulation if count >= self._accumulation else count

    def step(self, n: int) -> range:
        """The micro-batches of optimizer step `n`, counted from 0."""
        return range(n * self._accumulation, (n + 1) * self._accumulation)

    def batch(self, number: int) -> BatchPlan:
        """Micro-batch `number` of the run, counted through all epochs."""
        epoch, position = divmod(number, self.batches_per_epoch)
        with self._lock:  # an order is shared by the threads that plan; two are kept, for the turn of an epoch
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
                self._orders[epoch] = self._order(epoch)
            draws = self._orders[epoch][position]
        return self.fill(draws, epoch)

    def in_order(self) -> list[BatchPlan]:
        """All samples once, without a remainder, by the fixed draws of `VALIDATION_EPOCH`."""
        ids = self._ids
        if self._lengths is not None:
            ids = ids[np.argsort(-self._lengths[ids], kind="stable")]
        starts = [0, *self._ends]
        pieces = [ids[low:high] for low, high in zip(starts, [*self._ends, len(ids)], strict=True) if low < high]
        return [self.fill(piece, VALIDATION_EPOCH) for piece in pieces]

    def fill(self, draws: np.ndarray, epoch: int) -> BatchPlan:
        """Draws what is random about these samples, their crops or windows."""
        ids = draws % len(self._sizes)
        details = self._sampling.draw(self._sizes[ids], draws, self._longest, self._seed, epoch)
        return BatchPlan(ids, epoch, details)

    def _cut(self, batch_size: int) -> None:
        """Decides where batches end in an epoch's order: the same in every epoch, so all have as many.

        Within a budget, batches are cut from the samples sorted by length. What is random in an epoch's order puts a
        sample at most `_reach` places further back, and makes its key at most `_LENGTH_NOISE` larger, so a batch that
        has room for the sample so many places before it, and a little more, never holds more than the budget.
        """
        count, budget = len(self._ids), self._budget
        self._reach = 0
        lengths = np.ones(1, dtype=np.int64)
        if budget is not None and self._lengths is not None:
            lengths = self._lengths[self._ids]
            if self._expected is not None:  # no epoch has more of the long ones than this
                lengths = np.repeat(lengths, np.ceil(self._expected + 1e-6).astype(np.int64))
            lengths = np.minimum(np.sort(lengths)[::-1][:count], self._longest)
            batch_size = max(1, min(batch_size, budget // int(lengths[-1])))
        self._bucketed = bool(lengths[0] > lengths[-1])
        if not self._bucketed:
            size = min(batch_size, count)
            self._ends = np.arange(size, count + 1, size, dtype=np.int64)
            return
        assert budget is not None
        self._reach = max(1, round(0.5 * min(batch_size, budget / lengths.mean())))
        longest = np.ceil(lengths * (1 + _LENGTH_NOISE)).clip(max=lengths[0]).astype(np.int64).tolist()
        ends, position = [], 0
        while position < count:
            position += max(1, min(batch_size, budget // longest[max(0, position - self._reach)]))
            ends.append(position)
        if ends[-1] > count:  # the last one is not full: dropped, unless there is no other
            ends = ends[:-1] or [count]
        self._ends = np.array(ends, dtype=np.int64)

    def _draws(self, epoch: int) -> np.ndarray:
        """int64 [n]: the samples of an epoch in their order.

        With weights, repeat r of sample i is i + r * (number of samples): so each repeat has crops of its own. How
        often a sample comes differs from what is expected by less than 1 (systematic sampling).
        """
        count = len(self._ids)
        order = rng.permutation(self._seed, "order", epoch, count)
        if self._expected is None:
            return self._ids[order]
        ends = np.cumsum(self._expected[order])
        ends *= count / ends[-1]
        ends[-1] = count
        start = rng.uniform(self._seed, "balance", epoch, np.zeros(1, dtype=np.int64), 1)[0, 0]
        passed = np.searchsorted(start + np.arange(count), ends)
        times = np.diff(passed, prepend=0)
        repeats = np.arange(count) - np.repeat(passed - times, times)
        draws = np.repeat(self._ids[order], times) + repeats * len(self._sizes)
        return draws[rng.permutation(self._seed, "repeats", epoch, count)]

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The draws of each batch of an epoch."""
        batches = self.batches_per_epoch
        order = self._draws(epoch)
        if not self._bucketed:
            return np.split(order[: self._ends[batches - 1]], self._ends[: batches - 1])
        draws = order[: self._ends[-1]]
        # Samples of about equal length together: sorted by a length that is a little blurred, anew in every epoch, and
        # then moved by up to half a batch, which also mixes samples that are few.
        blur = rng.uniform(self._seed, "bucket", epoch, draws, 2)
        assert self._lengths is not None
        lengths = np.minimum(self._lengths[draws % len(self._sizes)], self._longest)
        draws = draws[np.argsort(-lengths * (1 + _LENGTH_NOISE * blur[:, 0]), kind="stable")]
        draws = draws[np.argsort(np.arange(len(draws)) + self._reach * blur[:, 1], kind="stable")]
        pieces = np.split(draws, self._ends[:-1])
        return [pieces[i] for i in rng.permutation(self._seed, "batches", epoch, len(pieces))[:batches]]


def fill_unknown(lengths: np.ndarray) -> np.ndarray:
    """Lengths, int64 [N], with the median of the others where one is 0: an unreadable sample keeps its place."""
    known = lengths > 0
    if known.all():
        return lengths
    return np.where(known, lengths, int(np.median(lengths[known])) if known.any() else 1)
