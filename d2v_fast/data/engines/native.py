"""The native engine: several threads read, decode and transform, each sample into its own row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from d2v_fast.data.engines.engine import GatheringSource, Made, assemble
from d2v_fast.data.engines.rows import RowMaker
from d2v_fast.data.engines.threads import Readers, settle
from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.protocol import Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import Stage
from d2v_fast.errors import SampleError


class NativeEngine:
    """Turns plans into batches in the background.

    Args:
        source: Where samples come from.
        sampling: How a sample becomes a row of the inputs.
        stages: What is added to a batch after that.
        threads: Threads that decode. Each computes alone: torch uses no further threads within them.
        device: Where the batches will be used; for CUDA they are made in page-locked memory.
    """

    def __init__(
        self, source: DataSource, sampling: Sampling, stages: Sequence[Stage], threads: int, device: torch.device
    ) -> None:
        self._maker = RowMaker(source, sampling, pin=device.type == "cuda")
        self._stages = stages
        self._kind = _Gathering if isinstance(source, GatheringSource) else _Decoding
        self._readers = Readers(threads)

    def begin(self, plan: Callable[[], BatchPlan]) -> Future[Made]:
        """Starts a micro-batch; `plan` is called in a thread too."""
        future: Future[Made] = Future()
        self._readers.begin(future, lambda: self._kind(self._maker, self._stages, future, plan()))
        return future

    def close(self) -> None:
        """Waits for what is being read, drops what is not yet."""
        self._readers.close()


class _Decoding:
    """A batch in the making."""

    def __init__(self, maker: RowMaker, stages: Sequence[Stage], future: Future[Made], plan: BatchPlan) -> None:
        self._maker, self._stages, self._future, self._plan = maker, stages, future, plan
        self._inputs = maker.allocate(plan)
        self.failures: dict[int, SampleError] = {}

    def __len__(self) -> int:
        return len(self._plan.ids)

    def read(self, row: int) -> None:
        self._maker.make(self._inputs[row], self._plan, row)

    def finish(self) -> None:
        settle(self._future, assemble(self._inputs, self._plan, self.failures, self._stages, pin=self._maker.pin))


class _Gathering(_Decoding):
    """A batch of a source that writes whole batches: so quick that threads would only be in each other's way."""

    def __len__(self) -> int:
        return 1

    def read(self, row: int) -> None:
        source = self._maker.source
        assert isinstance(source, GatheringSource)
        try:
            source.gather(self._plan.ids, self._inputs.numpy())
        except Exception:  # one by one, to find out which of them it is
            for i in range(len(self._plan.ids)):
                try:
                    super().read(i)
                except SampleError as error:
                    self.failures[i] = error.alone()
