"""Batches on their way to the device: the copy of the next one runs beside the work on this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

import torch
from torch import Tensor

from d2v_fast.batch import Batch


class Prefetch:
    """Hands out batches on the device, with the copy of the next one begun.

    On CUDA the copies have a stream of their own: the GPU's copy engine reads pinned memory while the kernels of the
    batch before it run. On other devices the same code runs without streams.

    Over the end of a step nothing is fetched ahead. The host launches the kernels of a step much faster than the GPU
    runs them, so it begins the first copy of the next step while they are still running.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, on the device."""
        before: tuple[Batch, torch.cuda.Event | None] | None = None
        for batch in batches:
            coming = self._begin(batch)
            if before is not None:
                yield self._arrived(*before)
            before = coming
        if before is not None:
            yield self._arrived(*before)

    def _begin(self, batch: Batch) -> tuple[Batch, torch.cuda.Event | None]:
        """Begin the copy; the event comes when it is done."""
        if self._stream is None:
            return batch.to(self.device), None
        with torch.cuda.stream(self._stream):
            return batch.to(self.device), self._stream.record_event()

    def _arrived(self, batch: Batch, copied: torch.cuda.Event | None) -> Batch:
        """Let the kernels that follow wait for the copy; the host does not wait."""
        if copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            for field in fields(batch):
                value = getattr(batch, field.name)
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(current)  # allocated on the other stream, and used on this one
        return batch
