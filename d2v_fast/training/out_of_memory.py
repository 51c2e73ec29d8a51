"""Running out of memory, told by the settings that decide how much a step needs."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import torch

from d2v_fast.errors import RunStopped

_CPU = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "Storage size calculation overflowed",
)
"""What torch's RuntimeError says where the system has no more memory, or no address is large enough for a tensor."""

REMEDY = (
    "Set precision.checkpoint_activations, with which this run can continue; or begin a new run with a smaller "
    "loader.batch_size (loader.batch_seconds, loader.batch_tokens) and as many times larger a loader.accumulation, "
    "which makes the same step of smaller parts"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that there is no more memory, on the device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU)


@contextlib.contextmanager
def explained(when: str) -> Iterator[None]:
    """Turn an error that says that memory ran out into one that says what to do.

    Args:
        when: What was being done, for the message.

    Raises:
        RunStopped: There was not enough memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The frames that the error came through hold the tensors of the step; whoever saves now needs the memory.
        traceback.clear_frames(error.__traceback__)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunStopped(f"out of memory {when}: {reason.rstrip('.')}. {REMEDY}") from error
