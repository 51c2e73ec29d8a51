"""One micro-batch in the making: its samples are read by several threads, each into its own row."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.config import InputsConfig, SpeechInputs, VisionInputs
from d2v_fast.data.engine import Made, MaskMaker, assemble
from d2v_fast.data.errors import DataError, SampleError
from d2v_fast.data.plan import BatchPlan, ClipPlan, PicturePlan
from d2v_fast.data.source import DataSource
from d2v_fast.data.transforms import clip_into, picture_into, tokens_into

_PIECES_PER_THREAD = 4
"""A batch is read in this many pieces for each thread: few enough to cost nothing, enough to end together."""


class Maker:
    """Turns plans into batches in the background.

    Args:
        source: Where samples come from.
        inputs: How a sample becomes an input.
        masks: Makes the masks of a batch.
        image_size: Vision: height and width of the model's input.
        threads: Threads that decode. Each computes alone: torch uses no further threads within them.
        device: Where the batches will be used; for CUDA they are made in page-locked memory.
    """

    def __init__(
        self,
        source: DataSource,
        inputs: InputsConfig,
        masks: MaskMaker,
        image_size: int | None,
        threads: int,
        device: torch.device,
    ) -> None:
        self._source, self._inputs, self._masks, self._image_size = source, inputs, masks, image_size
        self._pad_id: int = getattr(source, "pad_id", 0)  # of a text source
        self._pieces = threads * _PIECES_PER_THREAD
        self._pin = device.type == "cuda"
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
                made = assemble(inputs, plan, failures, self._masks, pin=self._pin)
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
        width = plan.details.width
        if isinstance(plan.details, ClipPlan):
            return torch.empty((count, width), dtype=torch.float32, pin_memory=self._pin)
        return torch.empty((count, width), dtype=torch.int64, pin_memory=self._pin)

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
                size, start, length = int(self._source.sizes[sample]), int(details.starts[row]), details.lengths[row]
                clip_into(out[:length], raw, start, size, normalize=self._inputs.normalize, name=name)
                out[length:] = 0
            else:
                length = details.lengths[row]
                tokens_into(out[:length], raw, name)
                out[length:] = self._pad_id
        except SampleError:
            raise
        except Exception as error:
            raise DataError(f"reading sample {sample} ({name}) failed: {type(error).__name__}: {error}") from error


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
