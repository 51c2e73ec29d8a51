"""GELU before a linear map, and LayerNorm before GELU, on a CPU: what is cheap is computed again and not kept.

torch keeps the output of GELU for the gradient of the linear map behind it, and that of the norm for the gradient of
GELU. Either is one pass over memory, and as large as what it was computed from, which is kept as well. The functions
and their order are torch's, so no bit changes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops._library import Backend, differentiate, register, serve
from d2v_fast.ops.linear import empty_product, gradients, in_bfloat16, linear, save_factors
from d2v_fast.ops.shadows import rounded


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The linear map of the exact GELU of x.

    Args:
        x: [..., C].
        weight: [D, C].
        bias: [D].

    Returns:
        [..., D].
    """
    if not _keeps_less(x):
        return linear(F.gelu(x), weight, bias)
    if in_bfloat16(x, weight):
        x, weight, bias = x.to(torch.bfloat16), rounded(weight), None if bias is None else bias.to(torch.bfloat16)
    y: Tensor = _gelu_linear(x, weight, bias)
    return y


def norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The exact GELU of the layer norm of x over its channels.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        [..., C].
    """
    if not _keeps_less(x):
        return F.gelu(F.layer_norm(x, x.shape[-1:], weight, bias, eps))
    y: Tensor = _norm_gelu(x, weight, bias, eps)[0]
    return y


def _keeps_less(x: Tensor) -> bool:
    """Whether there will be a backward pass of this kind; a graph decides for itself what it keeps."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.get_autocast_dtype("cpu"):
        return False
    return x.is_cpu and x.dim() > 1 and torch.is_grad_enabled()


def _gelu_linear_any(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(F.gelu(x), weight, bias)


def _gelu_linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    product = F.gelu(x) if wanted[1] else x  # only the gradient of the weight reads it
    of_gelu, of_weight, of_bias = gradients(grad, product, weight, wanted)
    of_x = None if of_gelu is None else torch.ops.aten.gelu_backward(of_gelu, x)
    return of_x, of_weight, of_bias


def _norm_gelu_any(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    normed, mean, scale = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    return F.gelu(normed), mean, scale


def _norm_gelu_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    statistics = (*x.shape[:-1], 1)
    return torch.empty_like(x), x.new_empty(statistics), x.new_empty(statistics)


def _save_norm(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.eps = inputs[3]


def _norm_gelu_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, scale = ctx.saved_tensors
    normed = F.layer_norm(x, x.shape[-1:], weight, bias, ctx.eps)
    of_normed = torch.ops.aten.gelu_backward(grad, normed)
    wanted = list(ctx.needs_input_grad[:3])
    return *torch.ops.aten.native_layer_norm_backward(
        of_normed, x, x.shape[-1:], mean, scale, weight, bias, wanted
    ), None  # fmt: skip


def _on_cpu() -> Backend:
    return Backend("torch's operators", "one output is computed again in the backward pass, instead of being kept")


def _on_gpu() -> Backend:
    return Backend("torch's operators", "nothing is computed again: time is dearer there")


_gelu_linear = register(
    "gelu_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    cpu=_gelu_linear_any,
    cuda=_gelu_linear_any,
    fake=empty_product,
)
_norm_gelu = register(
    "norm_gelu(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    cpu=_norm_gelu_any,
    cuda=_norm_gelu_any,
    fake=_norm_gelu_fake,
)
differentiate(_gelu_linear, _gelu_linear_backward, save_factors)
differentiate(_norm_gelu, _norm_gelu_backward, _save_norm)
for _name in ("gelu_linear", "norm_gelu"):
    serve(_name, cpu=_on_cpu, cuda=_on_gpu)
