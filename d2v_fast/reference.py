"""Each operation in a few lines of plain torch, for any float dtype and device: the specification of the fast ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def layer_targets(
    layers: Sequence[Tensor],
    rows: Tensor | None = None,
    *,
    layer_norm: str | tuple[str, ...] | None = "instance",
    final_norm: str | tuple[str, ...] | None = None,
    lengths: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The mean over K layers, each normalised, then normalised again: data2vec's targets (paper, section 3.3).

    Args:
        layers: K tensors [B, T, C].
        rows: int64 [M], flat indices into B * T; None for all of them.
        layer_norm: norms of each layer, in order: "instance" (over T), "layer" (over C), "batch" (over B and T).
        final_norm: norms of the mean, in order.
        lengths: int64 [B]; statistics run over the first lengths[b] frames and the other frames are zero.
        eps: added to the (biased) variance.

    Returns:
        [M, C], or [B, T, C] without rows; float64 for float64 layers, else float32.
    """
    dtype = torch.float64 if layers[0].dtype == torch.float64 else torch.float32
    batch, frames, channels = layers[0].shape
    valid = None if lengths is None else (torch.arange(frames, device=lengths.device) < lengths[:, None])[..., None]

    def normalise(x: Tensor, norms: str | tuple[str, ...] | None) -> Tensor:
        for norm in (norms,) if isinstance(norms, str) else norms or ():
            dims = {"instance": (1,), "batch": (0, 1), "layer": (2,)}[norm]
            if valid is None or norm == "layer":
                variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
            else:
                count = valid.sum(dims, keepdim=True)
                mean = x.where(valid, 0).sum(dims, keepdim=True) / count
                variance = (x - mean).where(valid, 0).square().sum(dims, keepdim=True) / count
            x = (x - mean) * torch.rsqrt(variance + eps)
        return x

    with torch.no_grad():
        total = normalise(layers[0].to(dtype), layer_norm)
        for layer in layers[1:]:
            total = total + normalise(layer.to(dtype), layer_norm)
        targets = normalise(total / len(layers), final_norm)
        if valid is not None:
            targets = targets.where(valid, 0)
        return targets if rows is None else targets.reshape(batch * frames, channels).index_select(0, rows)
