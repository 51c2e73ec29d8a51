"""One row of a micro-batch: what the native engine does to a sample, and what every other engine falls back on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.protocol import Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.errors import SampleError


class RowMaker:
    """Reads planned samples, each into a row of a batch.

    Args:
        source: Where samples come from.
        sampling: How a sample becomes a row.
        pin: Rows in page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(self, source: DataSource, sampling: Sampling, *, pin: bool) -> None:
        self.source, self.sampling, self.pin = source, sampling, pin
        self.label: Callable[[int], str] = getattr(source, "label", source.name)
        """What messages call a sample: its path, where there is one."""

    def allocate(self, plan: BatchPlan, count: int | None = None) -> Tensor:
        """Rows for `count` samples of a plan, for all of them by default: [count, ...], not filled in."""
        shape, dtype = self.sampling.rows(plan.details, len(plan.ids) if count is None else count)
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=self.pin)

    def make(self, out: Tensor, plan: BatchPlan, row: int) -> None:
        """Reads sample `row` of the plan into `out`, one row of `allocate`.

        Raises:
            SampleError: The sample cannot be read, for whatever reason.
        """
        sample = int(plan.ids[row])
        with reading(self.label, sample):
            raw = self.source.read(sample)
            self.sampling.write(out, raw, plan.details, row, self.source.sizes[sample], self.label(sample))


@contextmanager
def reading(label: Callable[[int], str], sample: int) -> Iterator[None]:
    """A context in which any exception becomes the failure of one sample.

    Args:
        label: Names a sample.
        sample: Its number.

    Raises:
        SampleError: Something went wrong.
    """
    try:
        yield
    except SampleError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        reason = f"reading it failed: {type(error).__name__}" + (f": {said[0]}" if said else "")
        raise SampleError(label(sample), reason) from error
