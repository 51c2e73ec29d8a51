"""The mean over K normalised layers: what the student regresses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import check_lengths, check_rows, compiled, dtype_code, register, serve
from d2v_fast.ops.device import layer_targets as device

Norm = Literal["instance", "layer", "batch"]

# The kernel's codes (enum Norm in csrc/cpu/kernels.h).
_NORM_CODES: dict[str | None, int] = {None: 0, "instance": 1, "layer": 2, "batch": 3}


def layer_targets(
    layers: Sequence[Tensor],
    rows: Tensor | None = None,
    *,
    layer_norm: Norm | tuple[Norm, ...] | None = "instance",
    final_norm: Norm | tuple[Norm, ...] | None = None,
    lengths: Tensor | None = None,
    eps: float = 1e-5,
    views: int = 1,
) -> Tensor:
    """The mean over K layers, each normalised, then normalised again: data2vec's targets (paper, section 3.3).

    No norm has affine parameters; variances are biased. With layer norm only the wanted rows are read, with instance
    norm every layer is read once. float32 arithmetic, float64 for float64 layers; the same bits for any number of
    threads. Nothing is differentiated: the teacher has no gradient.

    Args:
        layers: K tensors [B, T, C] of one shape, dtype (float32, bfloat16, float16, float64) and device. Views whose
            channels lie side by side, such as a transposed [T, B, C], are read where they are; others are copied.
        rows: int64 [M], the wanted positions as flat indices into B * V * T, ascending and unique: position t of view v
            of sample b is (b * V + v) * T + t, and has the target of position t of sample b. None for all B * T. The
            values are checked on the CPU.
        layer_norm: norm of each layer: "instance" (over T, for each sample and channel), "layer" (over C), "batch"
            (over B and T, for each channel), None, or a tuple of them, applied in that order.
        final_norm: the same for the mean over the layers.
        lengths: int64 [B], from 1 to T: instance and batch statistics run over the first lengths[b] frames of sample b,
            and the other frames are zero in the result. None: every frame counts. The values are checked on the CPU.
        eps: added to the variance.
        views: V, how many views of a sample the rows count; the teacher saw it once.

    Returns:
        [M, C] in the order of `rows`, or [B, T, C] without; float64 for float64 layers, else float32.

    Raises:
        ValueError: no layer; shapes or devices that differ; an unknown norm; a length of 0 or above T; a bad eps;
            no view.
        TypeError: a dtype that differs or is not supported.
        IndexError: rows that are out of range, unsorted or double.
    """
    layers = [layer.detach() if layer.requires_grad else layer for layer in layers]
    layer_norms, final_norms = _norms("layer_norm", layer_norm), _norms("final_norm", final_norm)
    _check(layers, rows, lengths, eps, views)
    if layers[0].device.type not in ("cpu", "cuda"):
        return reference.layer_targets(
            layers,
            rows,
            layer_norm=tuple(layer_norms),
            final_norm=tuple(final_norms),
            lengths=lengths,
            eps=eps,
            views=views,
        )
    return _layer_targets(layers, rows, lengths, layer_norms, final_norms, eps, views)


def _norms(name: str, value: str | Sequence[str] | None) -> list[str]:
    """The norms as a list, in order."""
    norms = [value] if isinstance(value, str) else list(value or ())
    for norm in norms:
        if norm not in _NORM_CODES:
            raise ValueError(f'{name} is {value!r}; use "instance", "layer", "batch", None or a tuple of them')
    return norms


def _check(layers: list[Tensor], rows: Tensor | None, lengths: Tensor | None, eps: float, views: int) -> None:
    """Everything but the values of the rows and lengths."""
    if not layers:
        raise ValueError("layers is empty; give at least one tensor [B, T, C]")
    first = layers[0]
    dtype_code(first, "layers[0]")
    if first.dim() != 3:
        raise ValueError(f"layers[0] has shape {tuple(first.shape)}; every layer must be [B, T, C]")
    for index, layer in enumerate(layers):
        if layer.shape != first.shape:
            raise ValueError(
                f"layers[{index}] has shape {tuple(layer.shape)} and layers[0] {tuple(first.shape)}: they must be equal"
            )
        if layer.dtype != first.dtype:
            raise TypeError(
                f"layers[{index}] has dtype {layer.dtype} and layers[0] {first.dtype}: convert them to one dtype"
            )
        if layer.device != first.device:
            raise ValueError(f"layers[{index}] is on {layer.device} and layers[0] on {first.device}: move one")
    for name, indices, shape in (("rows", rows, "[M]"), ("lengths", lengths, "[B]")):
        if indices is None:
            continue
        if indices.dtype != torch.int64:
            raise TypeError(f"{name} has dtype {indices.dtype}; it must be int64 {shape}: convert it with .long()")
        if indices.dim() != 1 or (indices is lengths and indices.shape[0] != first.shape[0]):
            raise ValueError(f"{name} has shape {tuple(indices.shape)}; it must be {shape} (B = {first.shape[0]})")
        if indices.device != first.device:
            raise ValueError(f"{name} is on {indices.device} and the layers on {first.device}: move one")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps is {eps}; it must be finite and not negative")
    if views < 1:
        raise ValueError(f"views is {views}; it must be at least 1")


def _empty(layer: Tensor, rows: Tensor | None) -> Tensor:
    dtype = torch.float64 if layer.dtype == torch.float64 else torch.float32
    return layer.new_empty(layer.shape if rows is None else (rows.shape[0], layer.shape[2]), dtype=dtype)


def _layer_targets_fake(
    layers: list[Tensor],
    rows: Tensor | None,
    lengths: Tensor | None,
    layer_norms: list[str],
    final_norms: list[str],
    eps: float,
    views: int = 1,
) -> Tensor:
    return _empty(layers[0], rows)


def _layer_targets_cpu(
    layers: list[Tensor],
    rows: Tensor | None,
    lengths: Tensor | None,
    layer_norms: list[str],
    final_norms: list[str],
    eps: float,
    views: int = 1,
) -> Tensor:
    batch, frames, _ = layers[0].shape
    if rows is not None:
        rows = rows.contiguous()
        check_rows(rows, batch * views * frames)
    if lengths is not None:
        lengths = lengths.contiguous()
        check_lengths(lengths, frames)
    # One call of the kernel takes one norm of the layers, and a layer norm of their mean. Whatever else is asked for is
    # done by further calls: on each layer before, and on the mean after, which then must have all of its rows.
    for norm in layer_norms[:-1]:
        layers = [_call([layer], None, lengths, norm, None, eps, 1) for layer in layers]
    fused = final_norms[:1] == ["layer"]
    later = final_norms[1:] if fused else final_norms
    last = layer_norms[-1] if layer_norms else None
    mean = _call(layers, None if later else rows, lengths, last, "layer" if fused else None, eps, views)
    for index, norm in enumerate(later):
        mean = _call([mean], rows if index + 1 == len(later) else None, lengths, norm, None, eps, views)
    return mean


def _call(
    layers: list[Tensor],
    rows: Tensor | None,
    lengths: Tensor | None,
    layer_norm: str | None,
    final_norm: str | None,
    eps: float,
    views: int,
) -> Tensor:
    """One call of the kernel."""
    out = _empty(layers[0], rows)
    batch, frames, channels = layers[0].shape
    if out.numel() == 0:
        return out
    if channels > 1:
        layers = [layer if layer.stride(2) == 1 else layer.contiguous() for layer in layers]
    _C.layer_targets(
        [layer.data_ptr() for layer in layers],
        [stride for layer in layers for stride in layer.stride()[:2]],
        0 if rows is None else rows.data_ptr(),
        0 if lengths is None else lengths.data_ptr(),
        out.data_ptr(),
        batch,
        frames,
        channels,
        out.numel() // channels,
        dtype_code(layers[0], "layers[0]"),
        _NORM_CODES[layer_norm],
        _NORM_CODES[final_norm],
        eps,
        torch.get_num_threads(),
        *([views] if views > 1 else []),
    )
    return out


_layer_targets = register(
    "layer_targets(Tensor[] layers, Tensor? rows, Tensor? lengths, str[] layer_norms, str[] final_norms, float eps, "
    "SymInt views=1) -> Tensor",
    cpu=_layer_targets_cpu,
    cuda=device.layer_targets,
    fake=_layer_targets_fake,
)
serve("layer_targets", cpu=compiled, cuda=device.backend)
