"""The layer targets on a GPU: CUDA C++ where it reads each layer once, Triton for every other single norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import reference
from d2v_fast.kernels import launch
from d2v_fast.ops._library import DTYPE_CODES, Backend
from d2v_fast.ops.device import launching, routes

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_GRID = 65535
"""Programs along the second and third axis of a grid."""

_COVERAGE = routes.Coverage(
    cuda="instance norm without a final norm where the frames of a sample fit into shared memory, up to 64 layers",
    triton="one norm or none of the layers, and a final layer norm or none",
    torch="tuples of norms, other final norms, float64, and whole rows of more than 8192 channels",
    why="CUDA C++ reads each layer once, Triton's statistics and targets are two passes (88 against 128 MB: docs)",
)


def layer_targets(
    layers: list[Tensor],
    rows: Tensor | None,
    lengths: Tensor | None,
    layer_norms: list[str],
    final_norms: list[str],
    eps: float,
    views: int = 1,
) -> Tensor:
    """The operation, with checked arguments.

    Args:
        layers: K tensors [B, T, C] of one shape, dtype and device.
        rows: int64 [M], or None.
        lengths: int64 [B], or None.
        layer_norms: norms of each layer, in order.
        final_norms: norms of the mean, in order.
        eps: added to the variance.
        views: V, of which the rows count positions in B * V * T.

    Returns:
        [M, C], or [B, T, C] without rows; float64 for float64 layers, else float32.

    Raises:
        RuntimeError: a launch failed.
        IndexError: bad rows, in debug mode.
        ValueError: bad lengths, in debug mode.
    """
    first = layers[0]
    batch, frames, channels = first.shape
    with launching.on(first.device):
        launching.check_indices(rows, lengths, batch, frames, views)
        if rows is not None and views > 1:
            # The samples' own positions: no longer ascending within a sample, which no kernel asks for.
            rows = rows // (views * frames) * frames + rows % frames
        shape = first.shape if rows is None else (rows.shape[0], channels)
        out = first.new_empty(shape, dtype=torch.float64 if first.dtype == torch.float64 else torch.float32)
        if out.numel() == 0:
            return out
        route = _route(layers, out.numel() // channels, layer_norms, final_norms)
        if route == "torch":
            norms: dict[str, Any] = {"layer_norm": tuple(layer_norms), "final_norm": tuple(final_norms)}
            return reference.layer_targets(layers, rows, lengths=lengths, eps=eps, **norms).contiguous()
        rows = None if rows is None else rows.contiguous()
        lengths = None if lengths is None else lengths.contiguous()
        if route == "cuda":
            _by_cuda(layers, rows, lengths, out, eps)
        else:
            norm = layer_norms[0] if layer_norms else None
            run = _rows_by_triton if norm in (None, "layer") else _columns_by_triton
            run(_in_one_layout(layers), rows, lengths, out, norm, bool(final_norms), eps)
        return out


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)


def _route(layers: list[Tensor], count: int, layer_norms: list[str], final_norms: list[str]) -> str:
    """Which code serves the call for `count` rows: "cuda", "triton" or "torch"."""
    first = layers[0]
    batch, frames, channels = first.shape
    if first.dtype not in _DTYPES or len(layer_norms) > 1 or final_norms not in ([], ["layer"]):
        return "torch"
    obstacles = routes.obstacles(first.device)
    whole_rows = bool(final_norms) or layer_norms in ([], ["layer"])
    by_triton = (
        obstacles.triton is None
        and batch <= _GRID
        and len(layers) <= _GRID
        and not (whole_rows and channels > launch.LARGEST_ROW)
    )
    if obstacles.cuda is None and layer_norms == ["instance"] and not final_norms:
        from d2v_fast import _cuda

        code, index = DTYPE_CODES[first.dtype], launching.place(first.device)[0]
        reads = _cuda.layer_targets_reads(len(layers), batch, frames, channels, count, code, index)
        if reads == 1 or (reads == 2 and not by_triton):
            return "cuda"
    return "triton" if by_triton else "torch"


def _side_by_side(layer: Tensor) -> bool:
    return layer.shape[2] == 1 or layer.stride(2) == 1


def _by_cuda(layers: list[Tensor], rows: Tensor | None, lengths: Tensor | None, out: Tensor, eps: float) -> None:
    from d2v_fast import _cuda

    batch, frames, channels = layers[0].shape
    layers = [layer if _side_by_side(layer) else layer.contiguous() for layer in layers]
    _cuda.layer_targets(
        [layer.data_ptr() for layer in layers],
        [stride for layer in layers for stride in layer.stride()[:2]],
        0 if rows is None else rows.data_ptr(),
        0 if lengths is None else lengths.data_ptr(),
        out.data_ptr(),
        batch,
        frames,
        channels,
        out.numel() // channels,
        DTYPE_CODES[layers[0].dtype],
        eps,
        *launching.place(out.device),
    )


def _in_one_layout(layers: list[Tensor]) -> tuple[Tensor, ...]:
    """The layers as they are where all have the same strides and their channels lie side by side, else copies."""
    strides = layers[0].stride()
    if _side_by_side(layers[0]) and all(layer.stride() == strides for layer in layers):
        return tuple(layers)
    return tuple(layer.contiguous() for layer in layers)


def _rows_by_triton(
    layers: tuple[Tensor, ...],
    rows: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    norm: str | None,
    final: bool,
    eps: float,
) -> None:
    from d2v_fast.kernels.layer_targets import row_targets

    _, frames, channels = layers[0].shape
    tile = launch.row_tile(channels)
    sizes = frames, channels, *layers[0].stride()[:2], eps
    options = norm == "layer", final, tile.channels
    grid = (out.numel() // channels,)
    launching.start(row_targets, grid, layers, rows, lengths, out, *sizes, *options, warps=tile.warps)


def _columns_by_triton(
    layers: tuple[Tensor, ...],
    rows: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    norm: str | None,
    final: bool,
    eps: float,
) -> None:
    from d2v_fast.kernels import layer_targets as kernels

    batch, frames, channels = layers[0].shape
    count, strides, instance = out.numel() // channels, layers[0].stride()[:2], norm == "instance"
    means, scales = out.new_empty(2, len(layers), batch, channels)
    tile = launch.statistics_tile()
    grid: tuple[int, ...] = launch.cells(channels, tile.channels), batch, len(layers)
    sizes: tuple[Any, ...] = frames, channels, *strides, eps
    options: tuple[Any, ...] = instance, tile.rows, tile.channels
    arguments: tuple[Any, ...] = layers, lengths, means, scales, *sizes, *options
    launching.start(kernels.column_statistics, grid, *arguments, warps=tile.warps)
    if not instance:
        tile = launch.merge_tile()
        grid = launch.cells(channels, tile.channels), len(layers)
        arguments = means, scales, lengths, batch, frames, channels, eps, tile.channels
        launching.start(kernels.merge_samples, grid, *arguments, warps=tile.warps)
    tile = launch.column_tile(channels, final_norm=final)
    grid = launch.cells(count, tile.rows), launch.cells(channels, tile.channels)
    options = instance, final, tile.rows, tile.channels
    arguments = layers, rows, lengths, means, scales, out, count, batch, *sizes, *options
    launching.start(kernels.column_targets, grid, *arguments, warps=tile.warps)
