"""The mean over K normalised layers: what the student regresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from d2v_fast import reference

Norm = Literal["instance", "layer", "batch"]
_NORMS = ("instance", "layer", "batch")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def layer_targets(
    layers: Sequence[Tensor],
    rows: Tensor | None = None,
    *,
    layer_norm: Norm | tuple[Norm, ...] | None = "instance",
    final_norm: Norm | tuple[Norm, ...] | None = None,
    lengths: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The mean over K layers, each normalised, then normalised again: data2vec's targets (paper, section 3.3)."""
    return reference.layer_targets(layers, rows, layer_norm=layer_norm, final_norm=final_norm, lengths=lengths, eps=eps)
