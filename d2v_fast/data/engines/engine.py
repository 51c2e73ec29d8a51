"""The engine: turns planned micro-batches into tensors. Which one does it changes no plan; nothing outside knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.data.config import InputsConfig
from d2v_fast.data.plan import BatchPlan
from d2v_fast.data.source import DataSource
from d2v_fast.errors import DataError, SampleError
from d2v_fast.log import tell
from d2v_fast.masking import Masks

MaskMaker = Callable[[Tensor, Tensor | None, np.ndarray, int], Masks]
"""(inputs [B, ...], lengths int64 [B] or None, sample ids int64 [B], epoch) -> the masks of a batch."""

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
            `Made.failures`; anything unforeseen, also an error of `plan` or of the mask maker, is the future's error.
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
    engine: Literal["auto", "dali", "native"],
    source: DataSource,
    inputs: InputsConfig,
    masks: MaskMaker,
    image_size: int | None,
    threads: int,
    device: torch.device,
) -> Engine:
    """The engine that `loader.engine` asks for.

    Args:
        engine: See `choose_engine`.
        source: Where samples come from.
        inputs: How a sample becomes an input.
        masks: Makes the masks of a batch; called from a worker thread.
        image_size: Vision: height and width of the model's input, in pixels.
        threads: Threads that decode.
        device: Where the batches will be used.

    Raises:
        DataError: See `check_engine`.
    """
    check_engine(engine, source.modality)
    arguments = (source, inputs, masks, image_size, threads, device)
    if choose_engine(engine, source, device) == "dali":
        from d2v_fast.data.engines.dali import DaliEngine

        return DaliEngine(*arguments)
    from d2v_fast.data.engines.native import NativeEngine

    return NativeEngine(*arguments)


def choose_engine(
    engine: Literal["auto", "dali", "native"],
    source: DataSource,
    device: torch.device,
    begun_with: Literal["dali", "native"] | None = None,
) -> Literal["dali", "native"]:
    """What `loader.engine` comes to.

    Args:
        engine: "auto" is DALI on a CUDA device if it is installed and the source has files to decode, else native.
        source: Where samples come from.
        device: Where the batches will be used.
        begun_with: What "auto" was when a run that continues was begun; it stays that, since two engines give the same
            pictures only to within a rounding.

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
    if device.type != "cuda" or not isinstance(source, EncodedSource):
        return "native"
    if not _has_dali():
        _tell_native()
        return "native"
    return "dali"


def check_engine(engine: str, modality: str) -> None:
    """Finds out whether an engine can be had, before anything is read.

    Raises:
        DataError: DALI is asked for and not installed, or asked for text; or there is no such engine.
    """
    if engine not in ("auto", "dali", "native"):
        raise DataError(f"loader.engine is {engine!r}; choose auto, dali or native")
    if engine == "dali" and modality == "text":
        raise DataError("loader.engine is dali, but text has nothing to decode: use auto or native")
    if engine == "dali" and not _has_dali():
        raise DataError(f"loader.engine is dali, but NVIDIA DALI is not installed: {_REMEDY}, or use native")


def assemble(
    inputs: Tensor, plan: BatchPlan, failures: Mapping[int, SampleError], masks: MaskMaker, *, pin: bool
) -> Made:
    """Makes a batch of the rows that could be read, with their masks: the last step of every engine.

    Args:
        inputs: [B, ...], a row for each sample of the plan.
        plan: What was to be read.
        failures: What went wrong, by row.
        masks: Makes the masks.
        pin: Page-locked memory, for asynchronous copies to a GPU.
    """

    def pinned(tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if pin and not tensor.is_cuda and not tensor.is_pinned() else tensor

    ids, lengths = plan.ids, plan.lengths
    named = {int(ids[row]): error for row, error in sorted(failures.items())}
    if failures:
        keep = np.array([row for row in range(len(ids)) if row not in failures], dtype=np.int64)
        inputs, ids = inputs[torch.from_numpy(keep).to(inputs.device)], ids[keep]
        lengths = None if lengths is None else lengths[keep]
    if len(ids) == 0:
        nothing = torch.zeros(0, dtype=torch.int64)
        mask = torch.zeros(0, 0, dtype=torch.bool)
        return Made(Batch(inputs=inputs, mask=mask, rows=nothing, sample_ids=nothing, skipped=len(failures)), named)
    valid = None if lengths is None else torch.from_numpy(lengths.copy())
    made = masks(inputs, valid, ids, plan.epoch)
    batch = Batch(
        inputs=pinned(inputs),
        lengths=valid,
        masked_inputs=None if made.tokens is None else pinned(made.tokens),
        mask=pinned(made.mask),
        rows=pinned(made.rows),
        views=len(made.mask) // len(ids),
        sample_ids=pinned(torch.from_numpy(ids.copy())),
        skipped=len(failures),
    )
    return Made(batch, named)


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package that holds it
        return False


@cache
def _tell_native() -> None:
    """Once in a process."""
    tell(f"NVIDIA DALI is not installed: the native engine decodes on the CPU ({_REMEDY} to decode on the GPU)")
