"""LayerNorm over channels, with weight and bias, and GELU behind it; on a CPU in one pass, of which only x is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import Backend, Switch, compiled, differentiate, dtype_code, eager_on_cpu, register, serve

FORMATS = (torch.float32, torch.bfloat16)
"""That the kernel serves; in others nobody trains on a CPU."""

earlier_norm_gelu = Switch("earlier_norm_gelu")
"""Norm and GELU by torch's operators, for the bits of a run that has begun with them."""


def norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The exact GELU of the layer norm of x over its channels.

    On a CPU nothing but x is kept: the rest is computed again in the backward pass. For float32 and bfloat16 a kernel
    computes in float32 and rounds once; sums over rows are in a fixed order, so threads change no bit. For other
    formats, and for gradients that are to have gradients, torch's operators are called one after the other.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        [..., C].
    """
    if x.dim() < 2 or not eager_on_cpu(x):
        return reference.norm_gelu(x, weight, bias, eps)
    y: Tensor = _forward(x, weight, bias, eps, _has_kernel(x, weight, bias))
    return y


def _has_kernel(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    channels = x.shape[-1:]
    if x.dtype not in FORMATS or earlier_norm_gelu.on or channels[0] == 0:
        return False
    return weight.is_cpu and bias.is_cpu and weight.dtype == bias.dtype and channels == weight.shape == bias.shape


def _call(back: bool, tensors: list[Tensor | None], x: Tensor, weight: Tensor, eps: float) -> None:
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    sizes = [x.numel() // x.shape[-1], x.shape[-1], dtype_code(x, "x"), dtype_code(weight, "weight")]
    _C.norm_gelu(back, addresses, sizes, eps, torch.get_num_threads())


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kernel: bool) -> Tensor:
    return x.new_empty(x.shape)


def _forward_any(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kernel: bool) -> Tensor:
    return reference.norm_gelu(x, weight, bias, eps)


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor, eps: float, kernel: bool) -> Tensor:
    if not kernel:
        return reference.norm_gelu(x, weight, bias, eps)
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    y = torch.empty_like(x)
    _call(False, [x, weight, bias, y, None, None, None, None], x, weight, eps)
    return y


def _backward_fake(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _backward_any(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = torchs_backward(grad, x, weight, bias, eps, [True, True, True])
    return gradients


def _backward_cpu(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    grad, x, weight, bias = grad.contiguous(), x.contiguous(), weight.contiguous(), bias.contiguous()
    gradients = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    _call(True, [x, weight, bias, None, grad, *gradients], x, weight, eps)
    return gradients


def torchs_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, wanted: list[bool]) -> Any:
    """Three gradients; None where one is not wanted."""
    normed, mean, scale = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    of_normed = torch.ops.aten.gelu_backward(grad, normed)
    return torch.ops.aten.native_layer_norm_backward(of_normed, x, x.shape[-1:], mean, scale, weight, bias, wanted)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.eps, ctx.kernel = inputs[3:]


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    if ctx.kernel and not torch.is_grad_enabled():
        return *_backward(grad, x, weight, bias, ctx.eps), None, None
    wanted = list(ctx.needs_input_grad[:3])
    return *torchs_backward(grad, x, weight, bias, ctx.eps, wanted), None, None


def _on_gpu() -> Backend:
    return Backend("torch's operators", "nothing is computed again: time is dearer there")


_forward = register(
    "norm_gelu(Tensor x, Tensor weight, Tensor bias, float eps, bool kernel) -> Tensor",
    cpu=_forward_cpu,
    cuda=_forward_any,
    fake=_forward_fake,
)
_backward = register(
    "norm_gelu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_any,
    fake=_backward_fake,
)
differentiate(_forward, _apply_backward, _save)
serve("norm_gelu", cpu=compiled, cuda=_on_gpu)
