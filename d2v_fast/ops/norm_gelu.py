"""LayerNorm over channels, with weight and bias, and GELU behind it: in one pass, of which x is kept and no result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import Switch, compiled, differentiate, dtype_code, eager, register, serve
from d2v_fast.ops.device import norm_gelu as device

FORMATS = (torch.float32, torch.bfloat16)
"""That the kernel of a CPU serves; in others nobody trains there."""

earlier_norm_gelu = Switch("earlier_norm_gelu")
"""Norm and GELU by torch's operators, for the bits of a run that has begun with them."""

earlier_norm_gelu_of_gpus = Switch("earlier_norm_gelu_of_gpus")
"""The same on GPUs alone, whose kernel is younger."""


def norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The exact GELU of the layer norm of x over its channels.

    Nothing of the size of x is kept but x: the rest is computed again in the backward pass. For float32 and 16 bits
    kernels compute in float32 and round once; sums over rows are in a fixed order, so threads change no bit. Other
    formats (float16 on a CPU, too), and gradients that are to have gradients, are torch's operators one after the
    other; in a graph and on other devices, or where autocast would cast x, so is everything.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        [..., C].
    """
    if x.dim() < 2 or x.device.type not in ("cpu", "cuda") or not eager(x):
        return reference.norm_gelu(x, weight, bias, eps)
    kernel = _has_kernel(x, weight, bias)
    if not kernel and not x.is_cpu:  # torch keeps the result of the norm: time is dearer there
        return reference.norm_gelu(x, weight, bias, eps)
    y: Tensor = _forward(x, weight, bias, eps, kernel)[0]
    return y


def _has_kernel(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    channels = x.shape[-1:]
    if earlier_norm_gelu.on or channels[0] == 0 or not x.device == weight.device == bias.device:
        return False
    if weight.dtype != bias.dtype or not channels == weight.shape == bias.shape:
        return False
    return _serves(x, weight, bias)


def _serves(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    if x.is_cpu:
        return x.dtype in FORMATS
    return not earlier_norm_gelu_of_gpus.on and device.serves(x, weight, bias)


def _call(back: bool, tensors: list[Tensor | None], x: Tensor, weight: Tensor, eps: float) -> None:
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    sizes = [x.numel() // x.shape[-1], x.shape[-1], dtype_code(x, "x"), dtype_code(weight, "weight")]
    _C.norm_gelu(back, addresses, sizes, eps, torch.get_num_threads())


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kernel: bool) -> tuple[Tensor, Tensor]:
    shape = (0,) if x.is_cpu else (2, x.numel() // x.shape[-1])
    return x.new_empty(x.shape), x.new_empty(shape, dtype=torch.float32)


def _forward_cuda(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kernel: bool) -> tuple[Tensor, Tensor]:
    return device.forward(x, weight, bias, eps)


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kernel: bool) -> tuple[Tensor, Tensor]:
    nothing = x.new_empty(0, dtype=torch.float32)
    if not kernel:
        return reference.norm_gelu(x, weight, bias, eps), nothing
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    y = torch.empty_like(x)
    _call(False, [x, weight, bias, y, None, None, None, None], x, weight, eps)
    return y, nothing


def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _backward_cuda(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return device.backward(grad, x, weight, bias, statistics)


def _backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad, x, weight, bias = grad.contiguous(), x.contiguous(), weight.contiguous(), bias.contiguous()
    gradients = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    _call(True, [x, weight, bias, None, grad, *gradients], x, weight, eps)
    return gradients


def torchs_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, wanted: list[bool]) -> Any:
    """Three gradients; None where one is not wanted."""
    given = x.dtype
    if not x.is_cpu:  # where torch's norm wants parameters of the format of x
        grad, x = grad.to(weight.dtype), x.to(weight.dtype)
    normed, mean, scale = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    of_normed = torch.ops.aten.gelu_backward(grad, normed)
    of_x, *others = torch.ops.aten.native_layer_norm_backward(
        of_normed, x, x.shape[-1:], mean, scale, weight, bias, wanted
    )
    return None if of_x is None else of_x.to(given), *others


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.eps, ctx.kernel = inputs[3:]


def _apply_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, statistics = ctx.saved_tensors
    if ctx.kernel and not torch.is_grad_enabled():
        return *_backward(grad, x, weight, bias, statistics, ctx.eps), None, None
    wanted = list(ctx.needs_input_grad[:3])
    return *torchs_backward(grad, x, weight, bias, ctx.eps, wanted), None, None


_forward = register(
    "norm_gelu(Tensor x, Tensor weight, Tensor bias, float eps, bool kernel) -> (Tensor y, Tensor statistics)",
    cpu=_forward_cpu,
    cuda=_forward_cuda,
    fake=_forward_fake,
)
_backward = register(
    "norm_gelu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor statistics, float eps) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_cuda,
    fake=_backward_fake,
)
differentiate(_forward, _apply_backward, _save)
serve("norm_gelu", cpu=compiled, cuda=device.backend)
