"""The engine: turns planned micro-batches into tensors. Which one does it changes no plan; nothing outside knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.protocol import DaliGraph, Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import Stage
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import tell

_REMEDY = 'install it with `pip install "d2v_fast[dali]"`'


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


def make_engine(
    engine: Literal["dali", "native"],
    source: DataSource,
    sampling: Sampling,
    stages: Sequence[Stage],
    threads: int,
    device: torch.device,
    dali: Callable[[], DaliGraph] | None,
) -> Engine:
    """An engine.

    Args:
        engine: What `choose_engine` gave.
        source: Where samples come from.
        sampling: How a sample becomes a row of the inputs.
        stages: What is added to a batch after that; called from a worker thread.
        threads: Threads that decode.
        device: Where the batches will be used.
        dali: Makes the modality's part of DALI.
    """
    if engine == "dali":
        from d2v_fast.data.engines.dali import DaliEngine

        assert dali is not None, "check_engine refuses a modality that has nothing to decode"
        return DaliEngine(source, sampling, stages, threads, device, dali())
    from d2v_fast.data.engines.native import NativeEngine

    return NativeEngine(source, sampling, stages, threads, device)


def choose_engine(
    engine: Literal["auto", "dali", "native"],
    source: DataSource,
    device: torch.device,
    begun_with: Literal["dali", "native"] | None = None,
    *,
    decodes: bool = True,
) -> Literal["dali", "native"]:
    """What `loader.engine` comes to.

    Args:
        engine: "auto" is DALI on a CUDA device if it is installed and the source has files to decode, else native.
        source: Where samples come from.
        device: Where the batches will be used.
        begun_with: What "auto" was when a run that continues was begun; it stays that, since two engines give the same
            pictures only to within a rounding.
        decodes: Whether the modality has something for DALI to decode.

    Raises:
        DataError: The run was begun with DALI, which is not installed now.
    """
    if engine != "auto":
        return engine
    if begun_with == "dali" and not _has_dali():
        raise DataError(
            "loader.engine is auto, which was dali when this run was begun, but NVIDIA DALI is not installed now: "
            f"{_REMEDY} to continue the run, or start a new one in another folder (--init-from takes over its weights)"
        )
    if begun_with is not None:
        return begun_with
    if device.type != "cuda" or not decodes or not isinstance(source, EncodedSource):
        return "native"
    if not _has_dali():
        _tell_native()
        return "native"
    return "dali"


def check_engine(engine: str, modality: str, *, decodes: bool) -> None:
    """Finds out whether an engine can be had, before anything is read.

    Args:
        engine: `loader.engine`.
        modality: For messages.
        decodes: Whether the modality has something to decode.

    Raises:
        DataError: DALI is asked for and not installed, or the modality has nothing to decode; or there is no such
            engine.
    """
    if engine not in ("auto", "dali", "native"):
        raise DataError(f"loader.engine is {engine!r}; choose auto, dali or native")
    if engine == "dali" and not decodes:
        raise DataError(f"loader.engine is dali, but {modality} has nothing to decode: use auto or native")
    if engine == "dali" and not _has_dali():
        raise DataError(f"loader.engine is dali, but NVIDIA DALI is not installed: {_REMEDY}, or use native")


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


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package that holds it
        return False


@cache
def _tell_native() -> None:
    """Once in a process."""
    tell(f"NVIDIA DALI is not installed: the native engine decodes on the CPU ({_REMEDY} to decode on the GPU)")
