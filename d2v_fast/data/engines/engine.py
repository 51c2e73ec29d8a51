"""The engine: turns planned micro-batches into tensors. Which one does it changes no plan; nothing outside knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.stages import Stage
from d2v_fast.errors import SampleError


@dataclass(frozen=True)
class Made:
    """A finished micro-batch."""

    batch: Batch
    """Of the samples that could be read; none, if it comes to that."""

    failures: dict[int, SampleError]
    """What went wrong, by sample id."""


class Engine(Protocol):
    """Makes micro-batches in the background; constructed by `make_engine`."""

    def begin(self, plan: Callable[[], BatchPlan]) -> Future[Made]:
        """Starts a micro-batch; they are finished in any order.

        Args:
            plan: Called once, on any thread.

        Returns:
            The batch. It may be cancelled while nobody needs it. A sample that cannot be read is one of
            `Made.failures`; an error of `plan` or of a stage is the future's error.
        """
        ...

    def close(self) -> None:
        """Ends all threads; micro-batches that were begun and not finished are dropped."""
        ...


@runtime_checkable
class EncodedSource(Protocol):
    """What a `DataSource` of files can also do: hand out a sample's file as it is, for engines that decode."""

    def encoded(self, index: int) -> bytes:
        """The bytes of the file, undecoded; called from several threads.

        Raises:
            SampleError: The file cannot be read, or is known to be broken.
        """
        ...


@runtime_checkable
class GatheringSource(Protocol):
    """What a `DataSource` of text can also do: write all sequences of a batch at once."""

    def gather(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Writes the sequences `indices`, int64 [B], to the rows of `out`, int64 [B, T], and padding behind them."""
        ...


def assemble(
    inputs: Tensor, plan: BatchPlan, failures: Mapping[int, SampleError], stages: Sequence[Stage], *, pin: bool
) -> Made:
    """Makes a batch of the rows that could be read: the last step of every engine.

    Args:
        inputs: [B, ...], a row for each sample of the plan.
        plan: What was to be read.
        failures: What went wrong, by row.
        stages: Add masks, labels.
        pin: Page-locked memory, for asynchronous copies to a GPU.
    """
    ids, lengths = plan.ids, plan.details.lengths
    named = {int(ids[row]): error for row, error in sorted(failures.items())}
    if failures:
        keep = np.array([row for row in range(len(ids)) if row not in failures], dtype=np.int64)
        inputs, ids = inputs[torch.from_numpy(keep).to(inputs.device)], ids[keep]
        lengths = None if lengths is None else lengths[keep]
    batch = Batch(
        inputs=inputs,
        lengths=None if lengths is None else torch.from_numpy(lengths.copy()),
        sample_ids=torch.from_numpy(ids.copy()),
        skipped=len(failures),
    )
    if len(ids):
        for stage in stages:
            batch = stage(batch, plan.epoch)
    return Made(batch.pin() if pin else batch, named)
