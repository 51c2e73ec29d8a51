"""Which tokens the blocks of an encoder see: all, those that are no padding, or a subset."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d2v_fast.ops.attention import KERNELS
from d2v_fast.ops.packing import Packing, plan_kept, plan_packing, to_device


def seen_tokens(
    x: Tensor, lengths: Tensor | None, kept: Tensor | None, *, kernel: Callable[[], str], extra: int, padding: bool
) -> Packing | Tensor | None:
    """See `Encoder.keep`.

    Args:
        x: [N, T, C].
        lengths: int64 [N].
        kept: int64 [K].
        kernel: gives the name of the kernel for packed tokens; only asked where there are any.
        extra: tokens put before every sequence.
        padding: whether padded positions are computed, too.
    """
    samples, width = x.shape[:2]
    compiling = torch.compiler.is_compiling()  # a graph has fixed shapes: everything is computed
    if kept is not None:
        if compiling:
            visible = torch.zeros(samples * width, dtype=torch.bool, device=x.device)
            return visible.index_fill(0, to_device(kept, x.device), True).view(samples, width)
        _check_kept(kept, lengths, width)
        return plan_kept(kept, samples, width, x.device, KERNELS[kernel()], extra)
    if lengths is None:
        return None
    if lengths.is_cpu and not compiling:  # known without waiting
        if lengths.numel() and lengths.min() >= width:
            return None
        name = "sdpa" if padding else kernel()
        if name != "sdpa":
            return plan_packing(lengths, width, x.device, KERNELS[name], extra)
    return valid_tokens(lengths, x)


def valid_tokens(lengths: Tensor, x: Tensor) -> Tensor:
    """Bool [N, T], False at the padding of x [N, T, C]."""
    places = torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
    return places < to_device(lengths, x.device).unsqueeze(1)


def _check_kept(kept: Tensor, lengths: Tensor | None, width: int) -> None:
    """Refuse kept tokens that are padding."""
    if lengths is None or not (lengths.is_cpu and kept.is_cpu) or not kept.numel():
        return
    padding = kept % width >= lengths[(kept // width).clamp(0, len(lengths) - 1)]
    if bool(padding.any()):
        at = int(padding.nonzero()[0])
        raise ValueError(
            f"kept[{at}] is {int(kept[at])}, token {int(kept[at]) % width} of row {int(kept[at]) // width}, which is "
            "padding: keep valid tokens only"
        )
