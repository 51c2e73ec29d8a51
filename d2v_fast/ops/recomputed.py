"""GELU before a linear map, on a CPU: what is cheap is computed again and not kept.

torch keeps the output of GELU for the gradient of the linear map behind it. It is one pass over memory, and as large as
what it was computed from, which is kept as well. The functions and their order are torch's, so no bit changes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops._library import Backend, differentiate, eager_on_cpu, register, serve
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
    if x.dim() < 2 or not torch.is_grad_enabled() or not eager_on_cpu(x):
        return linear(F.gelu(x), weight, bias)
    if in_bfloat16(x, weight):
        x, weight, bias = x.to(torch.bfloat16), rounded(weight), None if bias is None else bias.to(torch.bfloat16)
    y: Tensor = _gelu_linear(x, weight, bias)
    return y


def _gelu_linear_any(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(F.gelu(x), weight, bias)


def _gelu_linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    product = F.gelu(x) if wanted[1] else x  # only the gradient of the weight reads it
    of_gelu, of_weight, of_bias = gradients(grad, product, weight, wanted)
    of_x = None if of_gelu is None else torch.ops.aten.gelu_backward(of_gelu, x)
    return of_x, of_weight, of_bias


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
differentiate(_gelu_linear, _gelu_linear_backward, save_factors)
serve("gelu_linear", cpu=_on_cpu, cuda=_on_gpu)
