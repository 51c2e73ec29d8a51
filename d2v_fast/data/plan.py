"""The plan: which samples, crops, flips, colours and windows make up a micro-batch.

Everything here is a pure function of (sizes, configuration, seed, micro-batch number): no state is kept, so a run
resumes from its step number, and threads or read-ahead change nothing. Micro-batches are counted through all epochs;
micro-batch m belongs to epoch m // batches_per_epoch.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from d2v_fast import rng
from d2v_fast.data.config import InputsConfig, LoaderConfig, SpeechInputs, VisionInputs
from d2v_fast.data.errors import DataError

VALIDATION_EPOCH = (1 << 31) - 1
"""The epoch that crops, windows and masks of the held-out samples are drawn for, always the same one."""

_ATTEMPTS = 10
"""Tries at a random crop before the middle of the picture is taken, as torchvision has it."""

_LENGTH_NOISE = 0.01
"""Spread of the sort key of clips, relative to their length: neighbours change from epoch to epoch."""


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
        config: Batch size or sound per batch.
        seed: Of the run.

    Raises:
        DataError: No samples.
    """

    def __init__(
        self, sizes: np.ndarray, ids: np.ndarray, inputs: InputsConfig, config: LoaderConfig, seed: int
    ) -> None:
        if len(ids) == 0:
            raise DataError("no samples are left to train on")
        if config.batch_size < 1:
            raise DataError(f"loader.batch_size is {config.batch_size}; a batch needs at least one sample")
        self._inputs, self._seed, self._ids = inputs, seed, ids
        self._sizes = _known_lengths(sizes, inputs)
        self._budget, self._pad = _budget(inputs, config), config.pad
        self._ends = self._cut(self._sizes[ids], config.batch_size)
        self._lock = threading.Lock()
        self._orders: dict[int, list[np.ndarray]] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches in every epoch; the samples that fill no whole one are dropped, others in each epoch."""
        return len(self._ends)

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
        if isinstance(self._inputs, SpeechInputs):
            ids = ids[np.argsort(-self._sizes[ids], kind="stable")]
        starts = [0, *self._ends]
        pieces = [ids[low:high] for low, high in zip(starts, [*self._ends, len(ids)], strict=True) if low < high]
        return [self.fill(piece, VALIDATION_EPOCH) for piece in pieces]

    def fill(self, ids: np.ndarray, epoch: int) -> BatchPlan:
        """Draws crops or windows for these samples."""
        if isinstance(self._inputs, VisionInputs):
            return BatchPlan(ids, epoch, plan_pictures(self._sizes[ids], ids, self._inputs, self._seed, epoch))
        if isinstance(self._inputs, SpeechInputs):
            sizes = self._sizes[ids]
            lengths = np.minimum(sizes, self._longest(len(ids)))
            if not self._pad:
                lengths = np.full_like(lengths, lengths.min())
            return BatchPlan(ids, epoch, plan_clips(sizes, ids, lengths, self._seed, epoch))
        return BatchPlan(ids, epoch, TokenPlan(self._sizes[ids]))

    def _longest(self, count: int) -> int:
        """Samples that a window may have in a batch of `count` clips."""
        assert isinstance(self._inputs, SpeechInputs)
        longest = max_samples(self._inputs)
        return longest if self._budget is None else min(longest, self._budget // count)

    def _cut(self, sizes: np.ndarray, batch_size: int) -> np.ndarray:
        """Where batches end in an epoch's order, int64 [batches]: the same in every epoch, so all have as many."""
        count = len(sizes)
        if self._budget is None:
            size = min(batch_size, count)
            return np.arange(size, count + 1, size, dtype=np.int64)
        assert isinstance(self._inputs, SpeechInputs)
        longest_first = np.minimum(np.sort(sizes)[::-1], max_samples(self._inputs))
        ends, position = [], 0
        while position < count:
            position += max(1, min(batch_size, self._budget // int(longest_first[position])))
            ends.append(position)
        if ends[-1] > count:  # the last one is not full: dropped, unless there is no other
            ends = ends[:-1] or [count]
        return np.array(ends, dtype=np.int64)

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The samples of each batch of an epoch."""
        ids = self._ids[rng.permutation(self._seed, "order", epoch, len(self._ids))[: self._ends[-1]]]
        if self._budget is None:
            return np.split(ids, self._ends[:-1])
        # Clips of about equal length together: sorted by a length that is a little blurred, anew in every epoch, and
        # then moved by up to half a batch, which also mixes clips that are few.
        blur = rng.uniform(self._seed, "bucket", epoch, ids, 2)
        ids = ids[np.argsort(-self._sizes[ids] * (1 + _LENGTH_NOISE * blur[:, 0]), kind="stable")]
        half = 0.5 * len(ids) / len(self._ends)
        ids = ids[np.argsort(np.arange(len(ids)) + half * blur[:, 1], kind="stable")]
        batches = np.split(ids, self._ends[:-1])
        return [batches[i] for i in rng.permutation(self._seed, "batches", epoch, len(batches))]


def max_samples(inputs: SpeechInputs) -> int:
    """Longest window, in samples."""
    return round(inputs.max_seconds * inputs.sample_rate)


def _budget(inputs: InputsConfig, config: LoaderConfig) -> int | None:
    if config.batch_seconds is None:
        return None
    if not isinstance(inputs, SpeechInputs):
        raise DataError("loader.batch_seconds is for speech only; use loader.batch_size")
    if config.batch_seconds < inputs.min_seconds:
        raise DataError(
            f"loader.batch_seconds is {config.batch_seconds}, less than one clip "
            f"of inputs.min_seconds {inputs.min_seconds}: raise it"
        )
    return round(config.batch_seconds * inputs.sample_rate)


def _known_lengths(sizes: np.ndarray, inputs: InputsConfig) -> np.ndarray:
    """An unreadable sample keeps its place in the plan, as if it were of middling size: nothing else shifts."""
    sizes = np.asarray(sizes, dtype=np.int64)
    if isinstance(inputs, VisionInputs):
        return np.maximum(sizes, 1)
    known = sizes[sizes > 0]
    return np.where(sizes > 0, sizes, int(np.median(known)) if len(known) else 1)


def plan_clips(sizes: np.ndarray, ids: np.ndarray, lengths: np.ndarray, seed: int, epoch: int) -> ClipPlan:
    """A window of `lengths` samples, int64 [B], at a random place in each clip."""
    u = rng.uniform(seed, "window", epoch, ids, 1)[:, 0]
    return ClipPlan(np.floor(u * (sizes - lengths + 1)).astype(np.int64), lengths)


def plan_pictures(sizes: np.ndarray, ids: np.ndarray, inputs: VisionInputs, seed: int, epoch: int) -> PicturePlan:
    """Crop boxes, flips and colour factors; `sizes` is int64 [B, 2], height and width."""
    u = rng.uniform(seed, "picture", epoch, ids, 2 * _ATTEMPTS + 6)
    if inputs.crop_scale == (1, 1):
        boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    else:
        boxes = crop_boxes(sizes, u[:, : 2 * _ATTEMPTS + 2], inputs.crop_scale, inputs.crop_ratio)
    flips = u[:, -4] < inputs.flip
    low = max(0.0, 1 - inputs.jitter)
    return PicturePlan(boxes, flips, low + (1 + inputs.jitter - low) * u[:, -3:])


def crop_boxes(sizes: np.ndarray, u: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
    """Random resized crops by the algorithm of torchvision's RandomResizedCrop.

    Args:
        sizes: int64 [B, 2], height and width.
        u: float64 [B, 22] in [0, 1): ten areas, ten ratios, the place down and across.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest width to height ratio; drawn evenly in its logarithm.

    Returns:
        int64 [B, 4]: top, left, height, width, within the picture. Where none of ten draws fits, the largest box in
        the middle whose ratio is allowed.
    """
    full = sizes.astype(np.float64)
    areas = full.prod(axis=1, keepdims=True) * (scale[0] + (scale[1] - scale[0]) * u[:, :_ATTEMPTS])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    ratios = np.exp(low + (high - low) * u[:, _ATTEMPTS : 2 * _ATTEMPTS])
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= full[:, 1:]) & (heights > 0) & (heights <= full[:, :1])
    rows, first = np.arange(len(sizes)), fits.argmax(axis=1)
    found = fits[rows, first]

    middle_height = np.minimum(full[:, 0], np.maximum(1, np.rint(full[:, 1] / ratio[0])))
    middle_width = np.minimum(full[:, 1], np.maximum(1, np.rint(full[:, 0] * ratio[1])))
    height = np.where(found, heights[rows, first], middle_height)
    width = np.where(found, widths[rows, first], middle_width)
    down, across = full[:, 0] - height, full[:, 1] - width
    top = np.where(found, np.floor(u[:, -2] * (down + 1)), down // 2)
    left = np.where(found, np.floor(u[:, -1] * (across + 1)), across // 2)
    return np.stack([top, left, height, width], axis=1).astype(np.int64)
