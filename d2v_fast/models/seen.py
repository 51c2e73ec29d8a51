"""Which tokens the blocks of an encoder see: all, those that are no padding, or a subset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops.attention import KERNELS, biased
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.packing import Packing, plan_kept, plan_packing, to_device


def seen_tokens(
    x: Tensor,
    lengths: Tensor | None,
    kept: Tensor | None,
    *,
    kernel: Callable[[bool], str],
    extra: int,
    padding: bool,
    views: int = 1,
) -> Packing | Tensor | None:
    """See `Encoder.keep`.

    Args:
        x: [N / views, T, C].
        lengths: int64 [N].
        kept: int64 [K].
        kernel: gives the name of the kernel for packed tokens, told whether they are a subset; only asked where there
            are any.
        extra: tokens put before every sequence.
        padding: whether padded positions are computed, too.
        views: rows of the blocks for each row of x.
    """
    samples, width = x.shape[0] * views, x.shape[1]  # not len(x), which a traced program takes for a constant
    compiling = torch.compiler.is_compiling()  # a graph has fixed shapes: everything is computed
    if kept is not None:
        if compiling:
            visible = torch.zeros(samples * width, dtype=torch.bool, device=x.device)
            visible = visible.index_fill(0, to_device(kept, x.device), True).view(samples, width)
            return visible if lengths is None else visible & valid_tokens(lengths, x)
        if not padding and lengths is not None and keeps_padding(kept, lengths, width):
            _refuse_padding(kept, lengths, width)
        name = kernel(True)
        packing = plan_kept(kept, samples, width, x.device, KERNELS[name], extra)
        if name == "blocks" and min(packing.lengths) == max(packing.lengths):  # one call for all, and nothing to pad
            return replace(packing, kernel=KERNELS["sdpa"])
        return packing
    if lengths is None:
        return None
    if lengths.is_cpu and not compiling:  # known without waiting
        if lengths.numel() and lengths.min() >= width:
            return None
        name = "sdpa" if padding else kernel(False)
        if name != "sdpa":
            return plan_packing(lengths, width, x.device, KERNELS[name], extra)
    return valid_tokens(lengths, x)


def valid_tokens(lengths: Tensor, x: Tensor) -> Tensor:
    """Bool [N, T], False at the padding of x [N, T, C]."""
    places = torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
    return places < to_device(lengths, x.device).unsqueeze(1)


def keeps_padding(kept: Tensor, lengths: Tensor, width: int) -> bool:
    """Whether one of the kept tokens, flat indices into N * width, is padding; known on the host alone."""
    if torch.compiler.is_compiling() or not (lengths.is_cpu and kept.is_cpu) or not kept.numel():
        return False
    return bool(_padding(kept, lengths, width).any())


def without_padding(bias: Tensor | Distances | None, valid: Tensor, extra: int) -> Tensor | Distances:
    """A bias that keeps padding from being attended to where it is encoded.

    Args:
        bias: see `Encoder.place`.
        valid: bool [N, T].
        extra: E.

    Returns:
        [N, heads or 1, E + T, E + T], or distances with what is visible of [N, T].
    """
    if isinstance(bias, Distances):
        return replace(bias, visible=valid)
    size = extra + valid.shape[1]
    visible = F.pad(valid, (extra, 0), value=True)[:, None, None, :]
    if bias is None:
        bias = torch.zeros(1, 1, size, size, dtype=torch.float32, device=valid.device)
    return biased(visible, bias)


def _padding(kept: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Bool [K]: which of the kept tokens are padding."""
    return kept % width >= lengths[(kept // width).clamp(0, len(lengths) - 1)]


def _refuse_padding(kept: Tensor, lengths: Tensor, width: int) -> None:
    at = int(_padding(kept, lengths, width).nonzero()[0])
    raise ValueError(
        f"kept[{at}] is {int(kept[at])}, token {int(kept[at]) % width} of row {int(kept[at]) // width}, which is "
        "padding: keep valid tokens only"
    )
