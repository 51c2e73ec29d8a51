"""A layer of the decoders of data2vec 2.0: grouped convolution, norm, GELU and residual, with channels last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import compiled, differentiate, dtype_code, register, serve
from d2v_fast.ops.device import decoder_layer as device

EPS = 1e-5
"""Of the norm."""

_LARGEST_GROUP = 1 << 16
"""Weights of a group up to which our own convolution serves; with more of them that of torch is as fast or faster."""


def decoder_layer(x: Tensor, weight: Tensor, bias: Tensor, groups: int, residual: bool) -> Tensor:
    """Convolution over time or a grid, LayerNorm without affine (eps 1e-5), exact GELU, and the input added.

    The convolution keeps the size: zeros on both sides, and of an even kernel the last place of each side is left out.

    Args:
        x: [N, T, C], or [N, H, W, C].
        weight: [D, C / groups, kernel], or [D, C / groups, kernel, kernel], as torch stores it.
        bias: [D].
        groups: of the convolution; divides C and D.
        residual: adds x where C = D; with other channels nothing is added, as released.

    Returns:
        [N, T, D], or [N, H, W, D]; under autocast in its format, where the norm is still computed in float32.

    Raises:
        ValueError: the shapes or dtypes do not fit each other.
        TypeError: a dtype that is not supported.
    """
    _check(x, weight, bias, groups)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if not x.dtype == weight.dtype == bias.dtype:
        raise ValueError(f"x is {x.dtype}, weight {weight.dtype} and bias {bias.dtype}: convert them to one dtype")
    if x.device.type not in ("cpu", "cuda") or torch.compiler.is_exporting():
        return reference.decoder_layer(x, weight, bias, groups, residual)
    y: Tensor = _forward(x, weight, bias, groups, residual)[0]
    return y


def _check(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> None:
    dtype_code(x, "x")
    if x.dim() not in (3, 4) or weight.dim() != x.dim() or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"x is {list(x.shape)}, weight {list(weight.shape)} and bias {list(bias.shape)}; they must be [N, T, C], "
            "[D, C / groups, kernel] and [D], or [N, H, W, C], [D, C / groups, kernel, kernel] and [D]"
        )
    if groups < 1 or x.shape[-1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups is {groups}; it must divide the {weight.shape[0]} channels of the result, and the input must have "
            f"{weight.shape[1]} channels for each group, not {x.shape[-1]} together"
        )
    if len(set(weight.shape[2:])) != 1 or weight.shape[2] < 1:
        raise ValueError(f"weight is {list(weight.shape)}; its kernel must be square")
    if not x.device == weight.device == bias.device:
        raise ValueError(f"x is on {x.device}, weight on {weight.device}, bias on {bias.device}: move them together")


def _is_wide(weight: Tensor, groups: int) -> bool:
    return weight[0].numel() * (weight.shape[0] // groups) > _LARGEST_GROUP


def _sizes(x: Tensor, weight: Tensor, groups: int, residual: bool) -> list[int]:
    """The integers of struct DecoderLayer (csrc/cpu/kernels.h); frames are rows of a grid that is one place wide."""
    wide = x.dim() == 4
    height, width = x.shape[1], x.shape[2] if wide else 1
    kernel = weight.shape[2]
    channels = x.shape[-1], weight.shape[0], groups, kernel, kernel if wide else 1
    return [x.shape[0], height, width, *channels, int(residual), dtype_code(x, "x")]


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, groups: int, residual: bool) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], weight.shape[0])
    return x.new_empty(shape), x.new_empty(shape)


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, residual: bool) -> tuple[Tensor, Tensor]:
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    y, z = _forward_fake(x, weight, bias, groups, residual)
    wide = _is_wide(weight, groups)
    if wide:
        z = device.convolve(x, weight, bias, groups)
    tensors = _addresses(x, None if wide else weight, bias, z, y, None, None, None, None, None)
    _C.decoder_layer(False, tensors, _sizes(x, weight, groups, residual), EPS, torch.get_num_threads())
    return y, z


def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, z: Tensor, groups: int, residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


def _backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, z: Tensor, groups: int, residual: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    of_x, of_weight, of_bias = _backward_fake(grad, x, weight, z, groups, residual)
    of_z, wide = torch.empty_like(z), _is_wide(weight, groups)
    given = None if wide else weight
    tensors = _addresses(x, given, None, z, None, grad, of_z, of_bias, of_x, of_weight)
    _C.decoder_layer(True, tensors, _sizes(x, weight, groups, residual), EPS, torch.get_num_threads())
    if wide:
        of_x, of_weight = device.convolve_backward(of_z, x, weight, groups)
        if residual and grad.shape == of_x.shape:
            of_x.add_(grad)
    return of_x, of_weight, of_bias


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, bool], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.groups, ctx.residual = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _apply_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    return *_backward(grad, *ctx.saved_tensors, ctx.groups, ctx.residual), None, None


_forward = register(
    "decoder_layer(Tensor x, Tensor weight, Tensor bias, int groups, bool residual) -> (Tensor y, Tensor z)",
    cpu=_forward_cpu,
    cuda=device.forward,
    fake=_forward_fake,
)
_backward = register(
    "decoder_layer_backward(Tensor grad, Tensor x, Tensor weight, Tensor z, int groups, bool residual) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=device.backward,
    fake=_backward_fake,
)
differentiate(_forward, _apply_backward, _save)
serve("decoder_layer", cpu=compiled, cuda=device.backend)
