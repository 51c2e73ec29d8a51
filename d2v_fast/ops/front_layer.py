"""The first layer of a front end, from a signal: convolution, LayerNorm and GELU in one pass on a CPU.

A window of a signal is a few numbers, while what it becomes is the largest tensor of a step. So on a CPU the row of a
window is made in cache and goes through norm and GELU before it is written; the backward pass makes it again from the
signal, which is all that is kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight

from d2v_fast import _C, reference
from d2v_fast.ops._library import Backend, Switch, compiled, differentiate, dtype_code, register, serve
from d2v_fast.ops.linear import in_bfloat16
from d2v_fast.ops.norm_gelu import norm_gelu, torchs_backward
from d2v_fast.ops.strided_convolution import output_length, strided_convolution

WIDEST = 32
"""Numbers of a window, its channels included; of wider ones the products are better made by a library."""

FORMATS = (torch.float32, torch.float64)
"""Of the signals that the kernel reads; it computes in the same."""

earlier_front_layer = Switch("earlier_front_layer")
"""While it is on, convolution, norm and GELU come one after the other, as runs with `numerics` below 5 have them."""


def front_layer(
    x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float = 1e-5
) -> Tensor:
    """The exact GELU of the layer norm over channels of a convolution over time, without padding or bias.

    On a CPU one kernel serves signals of few channels that need no gradient; it keeps the signal alone and computes
    the rest again in the backward pass. Under autocast to bfloat16 it computes in float32 and rounds its output. Sums
    over rows are in a fixed order, so threads change no bit. In all other cases it is `strided_convolution` and
    `norm_gelu`.

    Args:
        x: [B, L, in_channels].
        weight: [C, in_channels, kernel].
        norm_weight: [C].
        norm_bias: [C].
        stride: frames between the starts of two windows.
        eps: added to the variance.

    Returns:
        [B, (L - kernel) // stride + 1, C]; under autocast to bfloat16 in that format.

    Raises:
        ValueError: the shapes do not fit each other, or there is less than one window.
    """
    if not _has_kernel(x, weight, norm_weight, norm_bias, stride):
        return norm_gelu(strided_convolution(x, weight, stride), norm_weight, norm_bias, eps)
    half = in_bfloat16(x, weight)
    y: Tensor = _forward(x.contiguous(), weight, norm_weight, norm_bias, stride, eps, half)
    return y


def _has_kernel(x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int) -> bool:
    if earlier_front_layer.on or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if x.dtype not in FORMATS or x.requires_grad or x.dim() != 3 or weight.dim() != 3 or stride < 1:
        return False
    if torch.is_autocast_enabled("cpu") and not (in_bfloat16(x, weight) and x.dtype == torch.float32):
        return False
    parameters = (weight, norm_weight, norm_bias)
    if not all(part.is_cpu and part.dtype == x.dtype for part in (x, *parameters)):
        return False
    channels, inputs, kernel = weight.shape
    fits = inputs == x.shape[2] and kernel <= x.shape[1] and norm_weight.shape == norm_bias.shape == (channels,)
    return fits and 0 < inputs * kernel <= WIDEST and channels > 0


def _call(
    back: bool, tensors: list[Tensor | None], x: Tensor, y: Tensor, weight: Tensor, stride: int, eps: float
) -> None:
    channels, inputs, kernel = weight.shape
    samples, length, _ = x.shape
    sizes = [samples, length * inputs, y.shape[1], stride * inputs, kernel * inputs, channels]
    codes = [dtype_code(x, "x"), dtype_code(y, "y")]
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    _C.front_layer(back, addresses, sizes + codes, eps, torch.get_num_threads())


def _matrix(weight: Tensor) -> Tensor:
    """[C, in_channels, kernel] as [kernel * in_channels, C]: the numbers in the order of a window's."""
    return weight.permute(2, 1, 0).reshape(-1, len(weight)).contiguous()


def _forward_fake(
    x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float, half: bool
) -> Tensor:
    frames = output_length(x.shape[1], weight.shape[2], stride)
    return x.new_empty(x.shape[0], frames, weight.shape[0], dtype=torch.bfloat16 if half else x.dtype)


def _forward_cpu(
    x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float, half: bool
) -> Tensor:
    y = _forward_fake(x, weight, norm_weight, norm_bias, stride, eps, half)
    tensors = [x.contiguous(), _matrix(weight), norm_weight.contiguous(), norm_bias.contiguous(), y, None, None]
    _call(False, tensors, x, y, weight, stride, eps)
    return y


def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(weight), torch.empty_like(norm_weight), torch.empty_like(norm_bias)


def _backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    channels, inputs, kernel = weight.shape
    gradients = x.new_empty(kernel * inputs + 2, channels)
    grad = grad.contiguous()
    tensors = [x.contiguous(), _matrix(weight), norm_weight.contiguous(), norm_bias.contiguous(), None, grad, gradients]
    _call(True, tensors, x, grad, weight, stride, eps)
    of_weight = gradients[:-2].view(kernel, inputs, channels).permute(2, 1, 0)
    return of_weight.contiguous(), gradients[-2].clone(), gradients[-1].clone()


def _forward_any(
    x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float, half: bool
) -> Tensor:
    y = reference.front_layer(x, weight, norm_weight, norm_bias, stride, eps)
    return y.to(torch.bfloat16) if half else y


def _backward_any(
    grad: Tensor, x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, stride: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    signal = x.transpose(1, 2)
    z = F.conv1d(signal, weight, stride=stride).transpose(1, 2)
    of_z, *of_norm = torchs_backward(grad.to(x.dtype), z, norm_weight, norm_bias, eps, [True, True, True])
    return conv1d_weight(signal, weight.shape, of_z.transpose(1, 2), stride=stride), *of_norm


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int, float, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.stride, ctx.eps = inputs[4:6]


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, *parameters = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return None, *_backward(grad, x, *parameters, ctx.stride, ctx.eps), None, None, None
    weight, norm_weight, norm_bias = parameters
    y = reference.front_layer(x, weight, norm_weight, norm_bias, ctx.stride, ctx.eps)
    wanted = [part for part in parameters if part.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True))
    return None, *(next(found) if part.requires_grad else None for part in parameters), None, None, None


def _on_gpu() -> Backend:
    return Backend("strided_convolution and norm_gelu", "one after the other: see their entries")


_forward = register(
    "front_layer(Tensor x, Tensor weight, Tensor norm_weight, Tensor norm_bias, int stride, float eps, bool half) "
    "-> Tensor",
    cpu=_forward_cpu,
    cuda=_forward_any,
    fake=_forward_fake,
)
_backward = register(
    "front_layer_backward(Tensor grad, Tensor x, Tensor weight, Tensor norm_weight, Tensor norm_bias, int stride, "
    "float eps) -> (Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    cuda=_backward_any,
    fake=_backward_fake,
)
differentiate(_forward, _apply_backward, _save)
serve("front_layer", cpu=compiled, cuda=_on_gpu)
