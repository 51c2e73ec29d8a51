"""One micro-batch in the making: its samples are read by several threads, each into its own row."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data.config import InputsConfig, SpeechInputs, VisionInputs
from d2v_fast.data.errors import DataError, SampleError
from d2v_fast.data.plan import BatchPlan, ClipPlan, PicturePlan
from d2v_fast.data.source import DataSource
from d2v_fast.data.transforms import clip_into, picture_into, tokens_into
from d2v_fast.masking import Masks

MaskMaker = Callable[[Tensor, Tensor | None, np.ndarray, int], Masks]
"""(inputs [B, ...], lengths [B] or None, sample ids int64 [B], epoch) -> the masks of a batch."""

_PIECES_PER_THREAD = 4
"""A batch is read in this many pieces for each thread: few enough to cost nothing, enough to end together."""


@dataclass(frozen=True)
class Made:
    """A finished micro-batch."""

    batch: Batch | None
    """None if no sample could be read."""

    failures: dict[int, SampleError]
    """What went wrong, by sample id."""


class Maker:
    """Turns plans into batches in the background.

    Args:
        source: Where samples come from.
        inputs: How a sample becomes an input.
        masks: Makes the masks of a batch.
        image_size: Vision: height and width of the model's input.
        threads: Threads that decode. Each computes alone: torch uses no further threads within them.
    """

    def __init__(
        self, source: DataSource, inputs: InputsConfig, masks: MaskMaker, image_size: int | None, threads: int
    ) -> None:
        self._source, self._inputs, self._masks, self._image_size = source, inputs, masks, image_size
        self._pieces = threads * _PIECES_PER_THREAD
        self._pin = torch.cuda.is_available()
        self._pool = _start_pool(threads)

    def begin(self, plan: Callable[[], BatchPlan]) -> Future[Made]:
        """Starts a micro-batch; `plan` is called in a thread too."""
        future: Future[Made] = Future()
        self._pool.submit(self._guard, future, lambda: self._spread(future, plan()))
        return future

    def close(self) -> None:
        """Waits for what is being read, drops what is not yet."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _guard(self, future: Future[Made], work: Callable[[], None]) -> None:
        """Runs `work` unless nobody wants the batch any more; an error becomes the batch's."""
        if future.done():
            return
        try:
            work()
        except BaseException as error:
            try:
                future.set_exception(error)
            except InvalidStateError:
                return  # cancelled, or another piece failed before

    def _spread(self, future: Future[Made], plan: BatchPlan) -> None:
        inputs = self._allocate(plan)
        failures: dict[int, SampleError] = {}
        bounds = np.linspace(0, len(plan.ids), min(self._pieces, len(plan.ids)) + 1).astype(int).tolist()
        left = len(bounds) - 1
        lock = threading.Lock()

        def piece(low: int, high: int) -> None:
            nonlocal left
            for row in range(low, high):
                try:
                    self._read(inputs[row], plan, row)
                except SampleError as error:
                    failures[row] = error
            with lock:
                left -= 1
                last = left == 0
            if last:
                made = self._finish(inputs, plan, failures)
                if not future.cancelled():
                    future.set_result(made)

        for low, high in pairwise(bounds):
            self._pool.submit(self._guard, future, partial(piece, low, high))

    def _allocate(self, plan: BatchPlan) -> Tensor:
        count = len(plan.ids)
        if isinstance(plan.details, PicturePlan):
            assert isinstance(self._inputs, VisionInputs)
            assert self._image_size is not None
            shape = (count, len(self._inputs.mean), self._image_size, self._image_size)
            return torch.empty(shape, dtype=torch.float32, pin_memory=self._pin)
        if isinstance(plan.details, ClipPlan):
            return torch.empty((count, plan.details.length), dtype=torch.float32, pin_memory=self._pin)
        return torch.empty((count, int(self._source.sizes[plan.ids[0]])), dtype=torch.int64, pin_memory=self._pin)

    def _read(self, out: Tensor, plan: BatchPlan, row: int) -> None:
        """Reads one sample into its row."""
        sample = int(plan.ids[row])
        name = self._source.name(sample)
        try:
            raw = self._source.read(sample)
            details = plan.details
            if isinstance(details, PicturePlan):
                assert isinstance(self._inputs, VisionInputs)
                box, flip, colours = details.boxes[row], bool(details.flips[row]), details.colours[row]
                picture_into(out, raw, box, flip, colours, self._source.sizes[sample], self._inputs, name)
            elif isinstance(details, ClipPlan):
                assert isinstance(self._inputs, SpeechInputs)
                size, start = int(self._source.sizes[sample]), int(details.starts[row])
                clip_into(out, raw, start, size, normalize=self._inputs.normalize, name=name)
            else:
                tokens_into(out, raw, name)
        except SampleError:
            raise
        except Exception as error:
            raise DataError(f"reading sample {sample} ({name}) failed: {type(error).__name__}: {error}") from error

    def _finish(self, inputs: Tensor, plan: BatchPlan, failures: dict[int, SampleError]) -> Made:
        ids = plan.ids
        named = {int(ids[row]): error for row, error in sorted(failures.items())}
        if failures:
            keep = [row for row in range(len(ids)) if row not in failures]
            inputs, ids = inputs[keep], ids[keep]
        if len(ids) == 0:
            return Made(None, named)
        masks = self._masks(inputs, None, ids, plan.epoch)
        batch = Batch(
            inputs=self._pinned(inputs),
            masked_inputs=None if masks.tokens is None else self._pinned(masks.tokens),
            mask=self._pinned(masks.mask),
            rows=self._pinned(masks.rows),
            views=len(masks.mask) // len(ids),
            sample_ids=self._pinned(torch.from_numpy(ids.copy())),
            skipped=len(failures),
        )
        return Made(batch, named)

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._pin and not tensor.is_pinned() else tensor


def _start_pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch computes on one core each.

    torch.set_num_threads is local to a thread, but for a default that threads started later take over; so all threads
    are started here, and then the default is put back.
    """
    main = torch.get_num_threads()
    together = threading.Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="d2v-data", initializer=_use_one_core)
    for _ in range(threads):
        pool.submit(together.wait)
    together.wait()
    torch.set_num_threads(main)
    return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread's first call takes the default over, which must not happen after the next line
    torch.set_num_threads(1)
