"""What every launch needs: the device made current, its stream, whether a CUDA graph is captured, how Triton starts.

The operations' files beside this one go through these few functions and otherwise do not care what the device is; the
tests put others in their place and run the same code on CPU tensors.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from d2v_fast.ops._library import check_lengths, check_rows

DEBUG = "D2V_FAST_DEBUG"
"""Environment variable: with 1, rows and lengths on a GPU are checked too, which waits for it."""


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes the device current: Triton launches there, and streams are asked for there."""
    return torch.cuda.device(device)


def place(device: torch.device) -> tuple[int, int]:
    """The device's number, and the address of its current stream (cudaStream_t)."""
    return device.index, torch.cuda.current_stream(device).cuda_stream


def capturing() -> bool:
    """Whether the current stream of the current device records a CUDA graph."""
    return torch.cuda.is_current_stream_capturing()


def keep_for(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Tells the allocator that tensors of another stream are read by the current one."""
    for tensor in tensors:
        tensor.record_stream(torch.cuda.current_stream(device))


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A small array on the device; nothing waits, since it is copied from memory that the device can read itself."""
    return torch.from_numpy(array).pin_memory().to(device, non_blocking=True)


def start(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int) -> None:
    """Launches a Triton kernel on the current device's current stream; what goes wrong is raised."""
    kernel[grid](*arguments, num_warps=warps)


def check_indices(rows: Tensor | None, lengths: Tensor | None, batch: int, frames: int, views: int = 1) -> None:
    """In debug mode, checks the values of rows and lengths on the host; not while a graph is captured.

    Raises:
        IndexError: rows are out of range, not ascending or not unique.
        ValueError: a length is not in [1, T].
    """
    if os.environ.get(DEBUG) != "1" or capturing():
        return
    if rows is not None:
        check_rows(rows.cpu().contiguous(), batch * views * frames)
    if lengths is not None:
        check_lengths(lengths, frames)
