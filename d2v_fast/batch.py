"""The batch: what the data side hands to the model, and nothing else passes between them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of B samples, each seen through V masks ("views").

    Row b * V + v of the student's tensors is view v of sample b.
    """

    inputs: Tensor
    """What the teacher sees, [B, ...]: waveforms float32 [B, samples], images float32 [B, channels, height, width],
    tokens int64 [B, T], or what another modality makes."""

    lengths: Tensor | None = None
    """int64 [B], valid samples (speech), tokens (text), ... of each row; None when every row is full. They stay on the
    CPU: the host has to know how many tokens there are, and must not wait for the device to tell it."""

    masked_inputs: Tensor | None = None
    """[B * V, ...]: the inputs after masking, where the input itself is masked (text: tokens int64 [B * V, T]). Speech
    and images are masked in the encoder, by `mask`."""

    sample_ids: Tensor
    """int64 [B], indices into the data source."""

    skipped: int = 0
    """Samples of this batch that could not be read and were left out."""

    mask: Tensor | None = None
    """bool [B * V, T]: True at the positions that the student has to predict."""

    rows: Tensor | None = None
    """int64 [M]: flat indices of the masked positions into B * V * T, ascending, the same positions as `mask`."""

    views: int = 1
    """V, the number of masked views of each sample."""

    kept: Tensor | None = None
    """int64 [K]: flat indices into B * V * T of the positions that the student encodes; None when it is all of them. On
    the CPU like the lengths: how many of each row are kept is known before any kernel runs."""

    labels: Tensor | None = None
    """[B, ...], what a supervised task wants to hear about each sample."""

    label_lengths: Tensor | None = None
    """int64 [B], valid labels of each row, where labels are sequences."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors, but for the lengths, on `device` (asynchronously from pinned memory)."""
        moved: dict[str, Any] = {
            field.name: _move(value, device)
            for field in fields(self)
            if field.name not in _ON_THE_HOST and isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def pin(self) -> Batch:
        """The same batch with its tensors, but for the lengths, in page-locked memory."""
        pinned: dict[str, Any] = {
            field.name: value.pin_memory()
            for field in fields(self)
            if field.name not in _ON_THE_HOST
            and isinstance(value := getattr(self, field.name), Tensor)
            and not (value.is_cuda or value.is_pinned())
        }
        return replace(self, **pinned)


_ON_THE_HOST = ("lengths", "kept", "label_lengths")


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.is_cuda and device.type == "cuda":
        # An engine made it on a stream of its own: its memory must wait for this stream before it is used again.
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor.to(device, non_blocking=True)
