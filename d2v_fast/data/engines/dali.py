"""The DALI engine: the same plan, decoded and transformed by NVIDIA DALI, on the GPU if there is one.

Samples that DALI is not known to treat as the native engine does (`dali_screen`), clips that are resampled, and sources
without files are made by the native code, row by row, and put into the same batch.

One bad file kills a DALI pipeline for good. Then the batch it was in is made by the native code, which names the file
and never lets it near DALI again; a new pipeline takes up the batches behind it.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from d2v_fast.data.engines import dali_graph
from d2v_fast.data.engines.engine import EncodedSource, Made, assemble
from d2v_fast.data.engines.rows import RowMaker, reading
from d2v_fast.data.engines.threads import Readers, settle
from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.protocol import DaliGraph, Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import Stage
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import tell

_UNEXPLAINED = 3
"""Batches in a row that DALI may fail on without a broken file in them."""


class DaliEngine:
    """Turns plans into batches in the background; see `NativeEngine` for the arguments.

    Files are read by `threads` threads, DALI uses as many of its own, and one more thread drives it.
    """

    def __init__(
        self,
        source: DataSource,
        sampling: Sampling,
        stages: Sequence[Stage],
        threads: int,
        device: torch.device,
        part: DaliGraph,
    ) -> None:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._stages, self._part = stages, part
        self._threads, self._device = threads, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._maker = RowMaker(source, sampling, pin=device.type == "cuda")
        self._refused: set[int] = set()
        self._graph: dali_graph.Graph | None = None
        self._flying: deque[_Reading] = deque()
        self._again: deque[_Reading] = deque()
        self._unexplained = 0
        self._closing = False
        self._ready: queue.SimpleQueue[_Reading | None] = queue.SimpleQueue()
        self._readers = Readers(threads)
        self._driver = threading.Thread(target=self._drive, name="d2v-data-dali", daemon=True)
        self._driver.start()
        atexit.register(self.close)  # a pipeline that works while the interpreter ends takes the process down

    def begin(self, plan: Callable[[], BatchPlan]) -> Future[Made]:
        """Starts a micro-batch; `plan` is called in another thread."""
        future: Future[Made] = Future()
        self._readers.begin(
            future, lambda: _Reading(self._maker, self._part, self._refused, plan(), future, self._ready.put)
        )
        return future

    def close(self) -> None:
        """Waits for what is being done, drops what is not yet begun."""
        atexit.unregister(self.close)
        self._closing = True
        self._ready.put(None)
        self._driver.join()
        self._readers.close()
        self._graph = None

    def _drive(self) -> None:
        """The driver's thread: the only one that touches the pipeline."""
        while not self._closing:
            try:
                self._turn()
            except BaseException as error:  # nobody waits for a batch that this thread has forgotten
                self._graph = None
                while self._flying:
                    settle(self._flying.popleft().future, error)

    def _turn(self) -> None:
        """Starts what is ready, up to `DEPTH` batches, and waits for the oldest."""
        while len(self._flying) < dali_graph.DEPTH:
            try:
                reading = self._again.popleft() if self._again else self._ready.get(block=not self._flying)
            except queue.Empty:
                break
            if reading is None:
                return
            self._launch(reading)
        if self._flying:
            self._land()

    def _launch(self, reading: _Reading) -> None:
        """Starts a batch, or finishes it if there is nothing for DALI in it."""
        if reading.future.done():
            return
        try:
            reading.withdraw(row for row, i in enumerate(reading.plan.ids.tolist()) if i in self._refused)
        except BaseException as error:
            settle(reading.future, error)
            return
        samples = [sample for sample in reading.samples if sample is not None]
        if not samples:
            self._finish(reading, None)
            return
        if self._graph is not None and self._graph.batch_size < len(reading):
            while self._flying:
                self._land()
            self._graph = None
        self._flying.append(reading)
        if self._graph is None:
            self._graph = self._build(len(reading))
        try:
            self._graph.start(samples)
        except RuntimeError as error:
            self._recover(error)

    def _land(self) -> None:
        """Waits for the oldest batch in flight."""
        assert self._graph is not None
        with self._on_stream():
            try:
                rows = self._graph.take()
            except RuntimeError as error:
                self._recover(error)
                return
            self._unexplained = 0
            self._finish(self._flying.popleft(), rows)

    def _build(self, count: int) -> dali_graph.Graph:
        batch_size = 1 << (count - 1).bit_length()  # batches differ in size: few pipelines are enough for all
        try:
            return dali_graph.Graph(self._part, batch_size, self._threads, self._device)
        except RuntimeError as error:
            raise DataError(
                f"DALI cannot work on {self._device} ({_reason(error)}): use loader.engine native"
            ) from error

    def _recover(self, error: RuntimeError) -> None:
        """The pipeline is dead: the oldest batch is made by the native code, a new pipeline begins with the next."""
        self._graph = None
        reading = self._flying.popleft()
        self._again.extend(self._flying)
        self._flying.clear()
        try:
            self._judge(reading, error)
        except BaseException as worse:
            settle(reading.future, worse)
            return
        self._finish(reading, None)

    def _judge(self, reading: _Reading, error: RuntimeError) -> None:
        """Makes a batch that DALI failed on; what cannot be read is known from now on."""
        rows = [row for row, sample in enumerate(reading.samples) if sample is not None]
        reading.withdraw(rows)
        broken = [row for row in rows if row in reading.failures]
        self._refused.update(int(reading.plan.ids[row]) for row in broken or rows)
        if broken:
            return
        self._unexplained += 1
        reason = _reason(error)
        if self._unexplained >= _UNEXPLAINED:
            raise DataError(f"DALI fails on batch after batch ({reason}): use loader.engine native") from error
        tell(f"DALI cannot decode one of {len(rows)} samples that are whole; they are decoded natively ({reason})")

    def _finish(self, reading: _Reading, rows: Tensor | None) -> None:
        """Puts DALI's rows and the others together; the masks are made by another thread."""
        future = reading.future
        try:
            with self._on_stream():
                inputs = reading.gather(rows, self._device)
            if self._stream is not None:
                # From here on any stream may use the batch, which `Batch.to` notes there, and DALI its own memory.
                self._stream.synchronize()
            make = partial(assemble, inputs, reading.plan, reading.failures, self._stages, pin=self._maker.pin)
            self._readers.submit(future, lambda: settle(future, make()))
        except BaseException as error:
            settle(future, error)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class _Reading:
    """A batch on its way to DALI: the bytes of its files, and the rows that the native code makes."""

    def __init__(
        self,
        maker: RowMaker,
        part: DaliGraph,
        refused: set[int],
        plan: BatchPlan,
        future: Future[Made],
        ready: Callable[[_Reading], None],
    ) -> None:
        self._maker, self._part, self._refused, self._ready = maker, part, refused, ready
        self.plan, self.future = plan, future
        self.failures: dict[int, SampleError] = {}
        self.samples: list[dali_graph.Sample | None] = [None] * len(plan.ids)
        self._natives: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.plan.ids)

    def read(self, row: int) -> None:
        """Reads the file of a sample, or makes its row if DALI shall not."""
        self.samples[row] = self._sample(row)
        if self.samples[row] is None:
            self._read_natively(row)

    def withdraw(self, rows: Iterable[int]) -> None:
        """Makes these rows natively after all, those that DALI was to make."""
        for row in rows:
            if self.samples[row] is not None:
                self.samples[row] = None
                try:
                    self._read_natively(row)
                except SampleError as error:
                    self.failures[row] = error.alone()

    def _read_natively(self, row: int) -> None:
        out = self._maker.allocate(self.plan, 1)[0]
        self._maker.make(out, self.plan, row)
        self._natives[row] = out

    def finish(self) -> None:
        """All rows are read."""
        self._ready(self)

    def gather(self, rows: Tensor | None, device: torch.device) -> Tensor:
        """The batch out of what DALI made, in the order of `samples`, and the other rows, on `device`."""
        if rows is not None and len(rows) == len(self):
            return rows.clone() if rows.is_cuda else rows
        like = self._maker.allocate(self.plan, 0)
        inputs = torch.empty((len(self), *like.shape[1:]), dtype=like.dtype, device=device)
        if rows is not None:
            decoded = [row for row, sample in enumerate(self.samples) if sample is not None]
            inputs.index_copy_(0, torch.tensor(decoded, device=device), rows)
        for row, native in self._natives.items():
            inputs[row].copy_(native, non_blocking=True)
        return inputs

    def _sample(self, row: int) -> dali_graph.Sample | None:
        """What DALI is fed for this row; None if it is to be made natively."""
        source, sample = self._maker.source, int(self.plan.ids[row])
        if sample in self._refused or not isinstance(source, EncodedSource):
            return None
        with reading(self._maker.label, sample):
            data = source.encoded(sample)
        return self._part.feed(data, self.plan.details, row, source.sizes[sample])


def _reason(error: RuntimeError) -> str:
    """What DALI says, without its traceback of the graph."""
    message = str(error).rpartition("encountered:")[2].split("C++ context")[0]
    return " ".join(message.replace("Current pipeline object is no longer valid.", "").split())
