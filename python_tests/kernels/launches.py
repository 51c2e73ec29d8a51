"""Launches the kernels on CPU tensors in the strict interpreter, by the rules of `launch`, as a host would on a GPU.

Results are filled with NaN beforehand: what a kernel leaves out shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import triton.language as tl
import triton_interpreter
from d2v_fast.kernels import (
    adamw_ema,
    decoder_layer,
    distance_attention,
    ema,
    launch,
    layer_targets,
    norm_gelu,
    restore,
    smooth_l1,
)
from torch import Tensor
from triton_interpreter import Traffic


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run_ema(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    decay: float,
    shadow: Sequence[Tensor] | None = None,
    block: int = launch.EMA_BLOCK,
) -> list[tuple[launch.EmaGroup, Traffic]]:
    tensors = []
    for i, (mean, sample) in enumerate(zip(teacher, student, strict=True)):
        copy = None if shadow is None else shadow[i]
        formats = name(sample.dtype), None if copy is None else name(copy.dtype)
        start = 0 if copy is None else copy.data_ptr()
        tensors.append(launch.EmaTensor(mean.data_ptr(), sample.data_ptr(), start, mean.numel(), *formats))
    done = []
    for group in launch.ema_groups(tensors):
        kinds = [None if which is None else getattr(tl, which) for which in group[:2]]
        traffic = triton_interpreter.launch(
            ema.ema_update,
            (len(group.table),),
            torch.tensor(group.table),
            torch.tensor([decay], dtype=torch.float64),
            *kinds,
            group.aligned,
            block,
            memory=[*teacher, *student, *(shadow or ())],
        )
        done.append((group, traffic))
    return done


def run_adamw(
    given: Mapping[str, Sequence[Tensor | None]],
    lr: Sequence[float],
    weight_decay: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    *,
    scale: float = 1.0,
    found: float = 0.0,
    decay: float = 0.999,
    block: int = launch.EMA_BLOCK,
) -> list[tuple[launch.AdamwGroup, Traffic]]:
    """The lists by the names of `ops.adamw_ema_`; the steps count the one that is made."""
    names = "parameters", "gradients", "exp_avg", "exp_avg_sq", "steps", "teacher", "shadow", "teacher_shadow"
    columns = [given[key] for key in names]
    tensors = []
    for together in zip(*columns, strict=True):
        starts = tuple(0 if x is None else x.data_ptr() for x in together)
        kinds = [None if x is None else name(x.dtype) for x in together[6:]]
        assert together[0] is not None
        tensors.append(launch.AdamwTensor(starts, together[0].numel(), *kinds))
    logs = [math.log(beta) if beta else -math.inf for beta in betas]
    numbers = np.array([(*rates, *logs) for rates in zip(lr, weight_decay, strict=True)]).view(np.int64)
    rows = torch.from_numpy(np.concatenate([np.array([x.starts for x in tensors], np.int64), numbers], 1))
    done = []
    for group in launch.adamw_groups(tensors):
        kinds = [None if which is None else getattr(tl, which) for which in group[1:3]]
        traffic = triton_interpreter.launch(
            adamw_ema.adamw_ema,
            (len(group.chunks),),
            rows,
            torch.tensor(group.chunks),
            torch.tensor(scale),
            torch.tensor(found),
            torch.tensor(decay, dtype=torch.float64),
            *(betas[0], 1 - betas[0], betas[1], 1 - betas[1], eps),
            group.teacher,
            *kinds,
            group.aligned,
            block,
            memory=[x for column in columns for x in column if x is not None],
        )
        done.append((group, traffic))
    return done


def run_forward(
    pred: Tensor,
    target: Tensor,
    rows: Tensor | None,
    *,
    beta: float,
    scale: float,
    factor: float,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor | None, Traffic]:
    """pred [positions, C]: losses, gradient, bytes."""
    count, channels = target.shape
    losses = torch.full((count,), torch.nan)
    gradient = None
    if with_gradient:
        gradient = torch.full_like(pred, torch.nan) if rows is None else torch.zeros_like(pred)
    tile = launch.smooth_l1_block()
    numbers = channels, beta, launch.clamped_inverse(beta), scale, factor
    arguments = pred, target, rows, losses, gradient, *numbers, beta == 0, tile.channels
    return losses, gradient, triton_interpreter.launch(smooth_l1.smooth_l1_forward, (count,), *arguments)


def run_backward(gradient: Tensor, incoming: Tensor, rows: Tensor | None, factor: float) -> Tensor:
    positions, channels = gradient.shape
    out = torch.full_like(gradient, torch.nan) if rows is None else torch.zeros_like(gradient)
    tile = launch.smooth_l1_backward_block(channels)
    arguments = gradient, incoming, rows, out, channels, factor, incoming.dim() == 1, tile.channels
    triton_interpreter.launch(smooth_l1.smooth_l1_backward, (positions if rows is None else len(rows),), *arguments)
    return out


def run_layer_targets(
    layers: Sequence[Tensor],
    rows: Tensor | None = None,
    *,
    layer_norm: str | None = "instance",
    final_norm: str | None = None,
    lengths: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, list[Traffic]]:
    """Targets [M, C], and the bytes of each launch."""
    batch, frames, channels = layers[0].shape
    strides = layers[0].stride()[:2]
    assert all(layer.stride() == (*strides, 1) for layer in layers)
    start = triton_interpreter.launch
    count = batch * frames if rows is None else len(rows)
    out = torch.full((count, channels), torch.nan)
    layers = tuple(layers)
    if layer_norm in (None, "layer"):
        tile = launch.row_tile(channels)
        options = layer_norm == "layer", final_norm == "layer", tile.channels
        arguments: tuple[Any, ...] = layers, rows, lengths, out, frames, channels, *strides, eps, *options
        return out, [start(layer_targets.row_targets, (count,), *arguments)]
    instance = layer_norm == "instance"
    means, scales = torch.full((2, len(layers), batch, channels), torch.nan)
    tile = launch.statistics_tile()
    grid: tuple[int, ...] = launch.cells(channels, tile.channels), batch, len(layers)
    sizes: tuple[Any, ...] = frames, channels, *strides, eps
    constants: tuple[Any, ...] = instance, tile.rows, tile.channels
    done = [start(layer_targets.column_statistics, grid, layers, lengths, means, scales, *sizes, *constants)]
    if not instance:
        tile = launch.merge_tile()
        grid = launch.cells(channels, tile.channels), len(layers)
        arguments = means, scales, lengths, batch, frames, channels, eps, tile.channels
        done.append(start(layer_targets.merge_samples, grid, *arguments))
    tile = launch.column_tile(channels, final_norm=final_norm == "layer")
    grid = launch.cells(count, tile.rows), launch.cells(channels, tile.channels)
    sizes = count, batch, frames, channels, *strides, eps
    constants = instance, final_norm == "layer", tile.rows, tile.channels
    tensors = layers, rows, lengths, means, scales, out
    done.append(start(layer_targets.column_targets, grid, *tensors, *sizes, *constants))
    return out, done


def run_restore(tokens: Tensor, kept: Tensor, noise: Tensor) -> tuple[Tensor, Traffic]:
    """[places, C], and the bytes."""
    places, channels = len(tokens) + len(noise), tokens.shape[1]
    out = torch.full((places, channels), torch.nan, dtype=tokens.dtype)
    tile, count = launch.restore_tile(), len(kept)
    grid = (launch.cells(places, tile.rows), launch.cells(channels, tile.channels))
    sizes = places, count, channels, count.bit_length(), tile.rows, tile.channels
    return out, triton_interpreter.launch(restore.restore, grid, tokens, noise, kept, out, *sizes)


def run_finish(z: Tensor, x: Tensor | None) -> tuple[Tensor, Traffic]:
    """Norm, GELU and residual of rows [M, C], and the bytes."""
    y, tile = torch.full_like(z, torch.nan), launch.row_tile(z.shape[1])
    arguments = z, x, y, z.shape[1], 1e-5, tile.channels
    return y, triton_interpreter.launch(decoder_layer.finish, (len(z),), *arguments)


def run_unfinish(z: Tensor, gradient: Tensor) -> tuple[Tensor, Traffic]:
    """The gradient of z, and the bytes."""
    of_z, tile = torch.full_like(z, torch.nan), launch.row_tile(z.shape[1])
    arguments = z, gradient, of_z, z.shape[1], 1e-5, tile.channels
    return of_z, triton_interpreter.launch(decoder_layer.unfinish, (len(z),), *arguments)


def run_norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, share: int) -> tuple[Tensor, Tensor, Traffic]:
    """Norm and GELU of rows [M, C], mean and scale of each row [2, M], and the bytes; `share`: rows of a program."""
    y, statistics = torch.full_like(x, torch.nan), torch.full((2, len(x)), torch.nan)
    rows, channels = x.shape
    numbers = rows, channels, 1e-5, share, launch.norm_gelu_tile(channels).channels
    grid = (launch.cells(rows, share),)
    traffic = triton_interpreter.launch(norm_gelu.norm_gelu, grid, x, weight, bias, y, *statistics, *numbers)
    return y, statistics, traffic


def run_norm_gelu_backward(
    x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, statistics: Tensor, share: int
) -> tuple[Tensor, Tensor, Traffic]:
    """The gradient of x, those of weight and bias [2, C], and the bytes."""
    rows, channels = x.shape
    grid = (launch.cells(rows, share),)
    of_x, sums = torch.full_like(x, torch.nan), torch.full((*grid, 2, channels), torch.nan)
    tensors = x, weight, bias, gradient, *statistics, of_x, sums
    numbers = rows, channels, share, launch.norm_gelu_tile(channels).channels
    traffic = triton_interpreter.launch(norm_gelu.norm_gelu_backward, grid, *tensors, *numbers)
    return of_x, sums.sum(0), traffic


def run_attention(
    qkv: Tensor,
    starts: Tensor,
    positions: Tensor,
    factors: Tensor,
    gradient: Tensor,
    *,
    visible: Tensor | None = None,
    seed: int = 0,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qkv [S, 3, heads, D]: the result, its logarithms, the gradient of qkv and that of the factors."""
    tokens, _, heads, dim = qkv.shape
    query, key, value = qkv.unbind(1)
    samples, longest = len(starts) - 1, int(starts.diff().max())
    tile = launch.attention_tile(qkv.element_size(), dim)
    drawn = torch.tensor([seed]) if dropout else None
    shown = None if visible is None else visible.view(torch.uint8)
    strides = [stride for x in (query, key, value) for stride in x.stride()[:2]]
    numbers = tokens, dim, *strides, dim**-0.5, int(dropout * 2**32), 1 / (1 - dropout)
    sizes = tile.queries, tile.keys, tile.channels
    out, of_query, of_key, of_value = (torch.full((tokens, heads, dim), torch.nan, dtype=qkv.dtype) for _ in range(4))
    logs = torch.full((heads, tokens), torch.nan)
    start, programs = triton_interpreter.launch, launch.cells(longest, tile.queries)
    given = query, key, value, starts, positions, shown, factors, drawn
    start(distance_attention.attend, (programs, heads, samples), *given, out, logs, *numbers, *sizes, memory=[qkv])
    means = (out.float() * gradient.float()).sum(-1).t().contiguous()
    shares = torch.full((samples, heads, programs), torch.nan)
    given = query, key, value, gradient, starts, positions, shown, factors, drawn, logs, means
    grid = programs, heads, samples
    queries, keys = distance_attention.attend_backward_queries, distance_attention.attend_backward_keys
    start(queries, grid, *given, of_query, shares, *numbers, *sizes, memory=[qkv])
    grid = launch.cells(longest, tile.keys), heads, samples
    start(keys, grid, *given, of_key, of_value, *numbers, *sizes, memory=[qkv])
    return out, logs, torch.stack([of_query, of_key, of_value], 1), shares.sum((0, 2))
