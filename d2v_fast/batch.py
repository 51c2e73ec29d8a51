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
    """What the teacher sees: float32 [B, samples] or [B, channels, height, width], or int64 tokens [B, T]."""

    lengths: Tensor | None = None
    """int64 [B], valid samples (speech) or tokens (text) of each row; None when every row is full. They stay on the
    CPU: the host has to know how many tokens there are, and must not wait for the device to tell it."""

    masked_inputs: Tensor | None = None
    """Text only: int64 [B * V, T], the tokens after masking. Speech and images are masked in the encoder, by `mask`."""

    mask: Tensor
    """bool [B * V, T]: True at the positions that the student has to predict."""

    rows: Tensor
    """int64 [M]: flat indices of the masked positions into B * V * T, ascending, the same positions as `mask`."""

    views: int = 1
    """V, the number of masked views of each sample."""

    sample_ids: Tensor
    """int64 [B], indices into the data source."""

    skipped: int = 0
    """Samples of this batch that could not be read and were left out."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors, but for the lengths, on `device` (asynchronously from pinned memory)."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if field.name != "lengths" and isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)
