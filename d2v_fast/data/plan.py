"""The plan: which samples, crops, flips, colours and windows make up a micro-batch.

Everything here is a pure function of (sizes, configuration, seed, micro-batch number): no state is kept, so a run
resumes from its step number, and threads or read-ahead change nothing. Micro-batches are counted through all epochs:
micro-batch m belongs to epoch m // batches_per_epoch, and step n is made of the `accumulation` micro-batches from
n * accumulation on. With W processes, rank r computes every W-th of these from the r-th on, so the samples of a step
and of an epoch are the same for any number of processes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from d2v_fast import rng
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.errors import DataError
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.crops import ATTEMPTS, crop_boxes

VALIDATION_EPOCH = (1 << 31) - 1
"""The epoch that crops, windows and masks of the held-out samples are drawn for, always the same one."""

_LENGTH_NOISE = 0.01
"""Spread of the key that samples are sorted by, relative to their length: neighbours change from epoch to epoch."""


@dataclass(frozen=True)
class PicturePlan:
    """How pictures are cut: whole pixels, so that every engine cuts the same."""

    boxes: np.ndarray
    """int64 [B, 4]: top, left, height, width."""

    flips: np.ndarray
    """bool [B]: mirrored left to right."""

    colours: np.ndarray
    """float64 [B, 3]: factors of brightness, contrast and saturation."""


@dataclass(frozen=True)
class ClipPlan:
    """Which window of each clip is used."""

    starts: np.ndarray
    """int64 [B], first sample."""

    lengths: np.ndarray
    """int64 [B], samples of the window; what a row has more is silence."""

    @property
    def width(self) -> int:
        """Samples of a row: of the longest window."""
        return int(self.lengths.max())


@dataclass(frozen=True)
class TokenPlan:
    """How many tokens each sequence has; nothing is random about text but its mask."""

    lengths: np.ndarray
    """int64 [B], tokens; what a row has more is padding."""

    @property
    def width(self) -> int:
        """Tokens of a row: of the longest sequence."""
        return int(self.lengths.max())


@dataclass(frozen=True)
class BatchPlan:
    """One micro-batch before anything is read."""

    ids: np.ndarray
    """int64 [B], samples of the source."""

    epoch: int
    """Keys what is random about a sample: crops, windows, masks."""

    details: PicturePlan | ClipPlan | TokenPlan
    """What becomes of each sample."""

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 [B], valid samples or tokens of each row; None if all rows are full, as pictures always are."""
        if isinstance(self.details, PicturePlan) or (self.details.lengths == self.details.width).all():
            return None
        return self.details.lengths


class Plan:
    """The micro-batches of all epochs.

    Args:
        sizes: int64 [N] or [N, 2], `DataSource.sizes` of the whole source.
        ids: int64 [n], the samples to use.
        inputs: Says which modality this is.
        config: Batch size, or sound or tokens per batch, and the micro-batches of a step.
        seed: Of the run.

    Raises:
        DataError: No samples, or a batch that cannot hold one.
    """

    def __init__(
        self, sizes: np.ndarray, ids: np.ndarray, inputs: InputsConfig, config: LoaderConfig, seed: int
    ) -> None:
        if len(ids) == 0:
            raise DataError("no samples are left to train on")
        if config.batch_size < 1:
            raise DataError(f"loader.batch_size is {config.batch_size}; a batch needs at least one sample")
        self._inputs, self._seed, self._ids, self._pad = inputs, seed, ids, config.pad
        self._sizes = _known_lengths(sizes, inputs)
        self._accumulation = config.accumulation
        self._longest = int(self._sizes.max())
        self._budget = _budget(inputs, config, self._longest)
        if isinstance(inputs, SpeechInputs):
            self._longest = min(max_samples(inputs), self._budget or self._longest)
        self._cut(config.batch_size)
        self._lock = threading.Lock()
        self._orders: dict[int, list[np.ndarray]] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches in every epoch, as many as make whole steps, if the samples are enough for one.

        The samples that are left are dropped, others in each epoch.
        """
        count = len(self._ends)
        return count - count % self._accumulation if count >= self._accumulation else count

    def step(self, n: int, rank: int = 0, world: int = 1) -> range:
        """The micro-batches of optimizer step `n` that this rank computes.

        Args:
            n: From 0.
            rank: Of this process.
            world: Number of processes; divides `loader.accumulation`.
        """
        return range(n * self._accumulation + rank, (n + 1) * self._accumulation, world)

    def batch(self, number: int) -> BatchPlan:
        """Micro-batch `number` of the run, counted through all epochs."""
        epoch, position = divmod(number, self.batches_per_epoch)
        with self._lock:  # an order is shared by the threads that plan; two are kept, for the turn of an epoch
            if epoch not in self._orders:
                self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
                self._orders[epoch] = self._order(epoch)
            ids = self._orders[epoch][position]
        return self.fill(ids, epoch)

    def in_order(self) -> list[BatchPlan]:
        """All samples once, without a remainder, by the fixed draws of `VALIDATION_EPOCH`."""
        ids = self._ids
        if not isinstance(self._inputs, VisionInputs):
            ids = ids[np.argsort(-self._sizes[ids], kind="stable")]
        starts = [0, *self._ends]
        pieces = [ids[low:high] for low, high in zip(starts, [*self._ends, len(ids)], strict=True) if low < high]
        return [self.fill(piece, VALIDATION_EPOCH) for piece in pieces]

    def fill(self, ids: np.ndarray, epoch: int) -> BatchPlan:
        """Draws crops or windows for these samples."""
        sizes = self._sizes[ids]
        if isinstance(self._inputs, VisionInputs):
            return BatchPlan(ids, epoch, plan_pictures(sizes, ids, self._inputs, self._seed, epoch))
        if isinstance(self._inputs, SpeechInputs):
            lengths = np.minimum(sizes, self._longest)
            if not self._pad:
                lengths = np.full_like(lengths, lengths.min())
            return BatchPlan(ids, epoch, plan_clips(sizes, ids, lengths, self._seed, epoch))
        return BatchPlan(ids, epoch, TokenPlan(sizes))

    def _cut(self, batch_size: int) -> None:
        """Decides where batches end in an epoch's order: the same in every epoch, so all have as many.

        Within a budget, batches are cut from the samples sorted by length. What is random in an epoch's order puts a
        sample at most `_reach` places further back, and makes its key at most `_LENGTH_NOISE` larger, so a batch that
        has room for the sample so many places before it, and a little more, never holds more than the budget.
        """
        count, budget = len(self._ids), self._budget
        self._reach = 0
        lengths = np.ones(1, dtype=np.int64)
        if budget is not None:
            lengths = np.minimum(np.sort(self._sizes[self._ids])[::-1], self._longest)
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

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The samples of each batch of an epoch."""
        batches = self.batches_per_epoch
        order = self._ids[rng.permutation(self._seed, "order", epoch, len(self._ids))]
        if not self._bucketed:
            return np.split(order[: self._ends[batches - 1]], self._ends[: batches - 1])
        ids = order[: self._ends[-1]]
        # Samples of about equal length together: sorted by a length that is a little blurred, anew in every epoch, and
        # then moved by up to half a batch, which also mixes samples that are few.
        blur = rng.uniform(self._seed, "bucket", epoch, ids, 2)
        lengths = np.minimum(self._sizes[ids], self._longest)
        ids = ids[np.argsort(-lengths * (1 + _LENGTH_NOISE * blur[:, 0]), kind="stable")]
        ids = ids[np.argsort(np.arange(len(ids)) + self._reach * blur[:, 1], kind="stable")]
        pieces = np.split(ids, self._ends[:-1])
        return [pieces[i] for i in rng.permutation(self._seed, "batches", epoch, len(pieces))[:batches]]


def max_samples(inputs: SpeechInputs) -> int:
    """Longest window, in samples."""
    return round(inputs.max_seconds * inputs.sample_rate)


def check_batches(inputs: InputsConfig, config: LoaderConfig) -> None:
    """Finds settings that do not fit the modality, before anything is read.

    Raises:
        DataError: Names the field and what to use instead.
    """
    if config.batch_seconds is not None and not isinstance(inputs, SpeechInputs):
        raise DataError("loader.batch_seconds is for speech only; use loader.batch_size")
    if config.batch_tokens is not None and not isinstance(inputs, TextInputs):
        raise DataError("loader.batch_tokens is for text only; use loader.batch_size")
    if config.pad and not isinstance(inputs, SpeechInputs):
        raise DataError(
            "loader.pad is for speech only: pictures have one size, and sequences of tokens are always padded"
        )
    if (
        isinstance(inputs, SpeechInputs)
        and config.batch_seconds is not None
        and config.batch_seconds < inputs.min_seconds
    ):
        raise DataError(
            f"loader.batch_seconds is {config.batch_seconds}, less than one clip "
            f"of inputs.min_seconds {inputs.min_seconds}: raise it"
        )


def _budget(inputs: InputsConfig, config: LoaderConfig, longest: int) -> int | None:
    """Samples or tokens that a batch may hold; None if only their number counts. `longest` is the largest size."""
    check_batches(inputs, config)
    if isinstance(inputs, SpeechInputs) and config.batch_seconds is not None:
        return round(config.batch_seconds * inputs.sample_rate)
    if config.batch_tokens is not None and config.batch_tokens < longest:
        raise DataError(
            f"loader.batch_tokens is {config.batch_tokens}, less than one sequence of {longest}: "
            "raise it, or lower inputs.block_size"
        )
    return config.batch_tokens


def _known_lengths(sizes: np.ndarray, inputs: InputsConfig) -> np.ndarray:
    """An unreadable sample keeps its place in the plan, as if it were of middling size: nothing else shifts."""
    sizes = np.asarray(sizes, dtype=np.int64)
    if isinstance(inputs, VisionInputs):
        return np.maximum(sizes, 1)
    if (sizes > 0).all():
        return sizes
    known = sizes[sizes > 0]
    return np.where(sizes > 0, sizes, int(np.median(known)) if len(known) else 1)


def plan_clips(sizes: np.ndarray, ids: np.ndarray, lengths: np.ndarray, seed: int, epoch: int) -> ClipPlan:
    """A window of `lengths` samples, int64 [B], at a random place in each clip."""
    u = rng.uniform(seed, "window", epoch, ids, 1)[:, 0]
    return ClipPlan(np.floor(u * (sizes - lengths + 1)).astype(np.int64), lengths)


def plan_pictures(sizes: np.ndarray, ids: np.ndarray, inputs: VisionInputs, seed: int, epoch: int) -> PicturePlan:
    """Crop boxes, flips and colour factors; `sizes` is int64 [B, 2], height and width."""
    u = rng.uniform(seed, "picture", epoch, ids, 2 * ATTEMPTS + 6)
    if inputs.crop_scale == (1, 1):
        boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    else:
        boxes = crop_boxes(sizes, u[:, : 2 * ATTEMPTS + 2], inputs.crop_scale, inputs.crop_ratio)
    flips = u[:, -4] < inputs.flip
    low = max(0.0, 1 - inputs.jitter)
    return PicturePlan(boxes, flips, low + (1 + inputs.jitter - low) * u[:, -3:])
