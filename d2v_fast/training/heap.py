"""The C library's heap, told to keep what is freed: a step frees large tensors and asks for them again all the time."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable

from torch import Tensor

CHOICE = "D2V_FAST_KEEP_MEMORY"
"""Environment variable: 0 leaves the process's heap as it is."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of mallopt in glibc's malloc.h."""

_LARGEST_THRESHOLD = 32 << 20
"""Bytes; glibc refuses a larger one."""

_KEPT = 2**31 - 1
"""Bytes at the end of the heap that are not given back."""


def keep_freed_memory(parameters: Iterable[Tensor] = ()) -> bool:
    """Lets tensors of up to 32 MB reuse memory that the process has touched before.

    By default glibc gives large blocks back to the system as soon as they are free; the next tensor of that size costs
    a page fault for every 4 kB, which takes longer than most operations do to fill it. Whether that happens depends on
    what else was allocated, so that a run may be slow for no visible reason (docs/measured.md).

    Larger tensors do so, too, where one of the parameters is larger, such as an embedding of words: its gradient comes
    and goes in every step. Where only activations are, the heap would grow by more than that is worth.

    It holds for the whole process and cannot be taken back. The environment variable D2V_FAST_KEEP_MEMORY=0 says no.

    Args:
        parameters: Of the networks that will be trained.

    Returns:
        Whether the C library was told: it is one that can be, and nobody said no.
    """
    if sys.platform != "linux" or os.environ.get(CHOICE) == "0":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    told = bool(mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD) and mallopt(_TRIM_THRESHOLD, _KEPT))
    if any(parameter.nbytes > _LARGEST_THRESHOLD for parameter in parameters):
        told = bool(mallopt(_MMAP_MAX, 0)) and told
    return told
