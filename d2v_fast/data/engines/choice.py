"""Which engine makes the batches: DALI or the native one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from d2v_fast.data.engines.engine import EncodedSource, Engine
from d2v_fast.data.protocol import DaliGraph, Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import Stage
from d2v_fast.errors import DataError
from d2v_fast.log import tell

_REMEDY = 'install it with `pip install "d2v_fast[dali]"`'


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


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package that holds it
        return False


@cache
def _tell_native() -> None:
    """Once in a process."""
    tell(f"NVIDIA DALI is not installed: the native engine decodes on the CPU ({_REMEDY} to decode on the GPU)")
