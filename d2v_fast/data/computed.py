"""The plan of runs from `Config.numerics` 5 on: the order of an epoch is computed place by place.

A batch costs the same for any number of samples: no array of them is made, for no epoch. (`Plan` is that of older runs,
and of those that draw some samples more often than others.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from d2v_fast import rng
from d2v_fast.data.layout import Layout
from d2v_fast.data.permutation import permuted
from d2v_fast.data.plan import VALIDATION_EPOCH, BatchPlan
from d2v_fast.data.protocol import Sampling


class ComputedPlan:
    """The micro-batches of all epochs; see `plan`, whose rules these are too.

    Args:
        sizes: int64 [N] or [N, k], `DataSource.sizes` of the whole source; may be memory-mapped.
        layout: Which samples are used, and how they are cut into batches.
        sampling: What the modality does with them.
        accumulation: Micro-batches of a step.
        seed: Of the run.
        stand_in: What `Sampling.known` gives in place of the size of an unreadable sample; None if there is none.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        layout: Layout,
        sampling: Sampling,
        accumulation: int,
        seed: int,
        stand_in: np.ndarray | None = None,
    ) -> None:
        self._sizes, self._layout, self._sampling = sizes, layout, sampling
        self._accumulation, self._seed, self._stand_in = accumulation, seed, stand_in

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches in every epoch, as many as make whole steps, if the samples are enough for one."""
        count = self._layout.batches
        return count - count % self._accumulation if count >= self._accumulation else count

    def step(self, n: int) -> range:
        """See `Plan.step`."""
        return range(n * self._accumulation, (n + 1) * self._accumulation)

    def batch(self, number: int) -> BatchPlan:
        """Micro-batch `number` of the run, counted through all epochs."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if self._layout.windows is None:  # their samples are in a random order already
            return self._fill(self.samples(position, epoch), epoch)
        chosen = permuted(self._seed, "batches", epoch, self._layout.batches, np.array([position]))
        return self._fill(self.samples(int(chosen[0]), epoch), epoch)

    def samples(self, batch: int, epoch: int) -> np.ndarray:
        """int64 [B]: the samples that an epoch has in a batch of the layout."""
        layout = self._layout
        low, high = layout.bounds(batch)
        if layout.windows is None:
            return self._ids(permuted(self._seed, "order", epoch, layout.count, np.arange(low, high)))
        return self._ids(self._within_windows(layout.windows, epoch, low, high))

    def in_order(self) -> Iterator[BatchPlan]:
        """All samples once, without a remainder, by the fixed draws of `VALIDATION_EPOCH`."""
        layout = self._layout
        bounds = [layout.bounds(batch) for batch in range(layout.batches)]
        for low, high in [*bounds, (bounds[-1][1], layout.count)]:
            if low < high:
                yield self._fill(self._ids(np.arange(low, high)), VALIDATION_EPOCH)

    def _within_windows(self, windows: np.ndarray, epoch: int, low: int, high: int) -> np.ndarray:
        """Which samples of the sorted ones an epoch has at the places low ... high - 1.

        As batches are whole, a few samples are left over: in each epoch others, which follow one another.
        """
        layout = self._layout
        assert layout.ends is not None
        used = int(layout.ends[-1])
        share, gap = rng.uniform(self._seed, "windows", epoch, np.zeros(1, dtype=np.int64), 2)[0]

        def border(i: int) -> int:
            """Where window i of this epoch ends."""
            if i >= len(windows):
                return used
            following = int(windows[i + 1]) if i + 1 < len(windows) else used
            return int(windows[i]) + int(share * (following - windows[i]))

        parts = []
        i = int(np.searchsorted(windows, low, side="right")) - 1
        i += low >= border(i)
        while low < high:
            start, end = 0 if i == 0 else border(i - 1), min(border(i), used)
            places = np.arange(low, min(high, end)) - start
            if len(places):
                seed = rng.derive(self._seed, "window", start)
                parts.append(start + permuted(seed, "order", epoch, end - start, places))
            low, i = max(low, end), i + 1
        found = np.concatenate(parts)
        return found + (found >= int(gap * (used + 1))) * (layout.count - used)

    def _ids(self, places: np.ndarray) -> np.ndarray:
        return places if self._layout.ids is None else self._layout.ids[places].astype(np.int64)

    def _fill(self, ids: np.ndarray, epoch: int) -> BatchPlan:
        """Draws what is random about these samples."""
        details = self._sampling.draw(self._known(self._sizes[ids]), ids, self._layout.longest, self._seed, epoch)
        return BatchPlan(ids, epoch, details)

    def _known(self, sizes: np.ndarray) -> np.ndarray:
        """The sizes of some samples, with the stand-in where one cannot be read."""
        unknown = (sizes == 0).reshape(len(sizes), -1).any(axis=1)
        if self._stand_in is None or not unknown.any():
            return self._sampling.known(sizes)
        known = np.empty((len(sizes), *self._stand_in.shape), dtype=np.int64)
        known[unknown] = self._stand_in
        if not unknown.all():
            known[~unknown] = self._sampling.known(sizes[~unknown])
        return known
