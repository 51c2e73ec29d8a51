"""Linear maps, whose float32 products on a CPU are oneDNN's where the library that torch asks is the slower one.

torch asks MKL for float32 products. On processors of other makers than Intel that library takes its AVX2 code, though
they have AVX-512; oneDNN, which is a part of torch as well, takes what is there. Both compute in float32 throughout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v_fast.ops._library import Backend, differentiate, register, serve

LEAST = 1 << 24
"""Products of two numbers from which on oneDNN is asked: it prepares code for each size that it has not seen yet."""

_torch_alone: ContextVar[bool] = ContextVar("torch_alone", default=False)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, in float32 on a CPU by oneDNN where that is faster.

    Args:
        x: [..., C].
        weight: [D, C].
        bias: [D].

    Returns:
        [..., D].
    """
    if not _is_ours(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = _forward(x, weight, bias)
    return y


@contextlib.contextmanager
def torch_products() -> Iterator[None]:
    """Leaves the products to torch, for the bits of a run that has begun with them."""
    before = _torch_alone.set(True)
    try:
        yield
    finally:
        _torch_alone.reset(before)


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    # A graph has torch's own operators, which the compiler joins and others understand.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not (x.is_cpu and weight.is_cpu):
        return False
    if x.dim() < 2 or x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return False
    return by_onednn(x, x.numel() * len(weight))


def by_onednn(x: Tensor, products: int) -> bool:
    """Whether so many products of x, a tensor of the CPU, with another of its format are oneDNN's."""
    return x.dtype == torch.float32 and products >= LEAST and not _torch_alone.get() and not _reason_for_torch()


@cache
def _reason_for_torch() -> str:
    """Why oneDNN is not asked on this machine; empty if it is."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch has no oneDNN"
    if not torch.backends.mkl.is_available():
        return "torch does not ask MKL here"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "without AVX-512 both libraries take the same instructions"
    described = Path("/proc/cpuinfo")
    if not described.exists() or "GenuineIntel" in described.read_text(errors="replace"):
        return "MKL takes AVX-512 on processors of Intel's"
    return ""


def _forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(_plain(x), _plain(weight), bias, "none", [], "")
    return y


def _plain(x: Tensor) -> Tensor:
    """A matrix or its transpose; for other strides oneDNN has no fast code."""
    return x if x.is_contiguous() or (x.dim() == 2 and x.t().is_contiguous()) else x.contiguous()


def empty_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., D] without numbers, for [..., C] and [D, C]."""
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def save_factors(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    """Keeps x and weight for the backward pass."""
    ctx.save_for_backward(*inputs[:2])


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    return gradients(grad, x, weight, ctx.needs_input_grad)


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of x [..., C], weight [D, C] and bias [D], as far as they are wanted; grad is [..., D], of the output."""
    grad = grad.contiguous()
    flat = grad.flatten(0, -2)
    of_x = linear(grad, weight.t()) if wanted[0] else None
    of_weight = _weight_gradient(flat, x.flatten(0, -2)) if wanted[1] else None
    return of_x, of_weight, flat.sum(0) if wanted[2] else None


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """[D, C]. oneDNN copies the first factor to have its rows side by side, so that is the smaller one."""
    if x.shape[1] < grad.shape[1] and by_onednn(x, x.numel() * grad.shape[1]):
        return linear(x.t(), grad.t()).t().contiguous()
    return linear(grad.t(), x.t())


def _on_cpu() -> Backend:
    reason = _reason_for_torch()
    if reason:
        return Backend("torch's linear", reason)
    return Backend("oneDNN in float32, from 2^24 products on; else torch's linear", "MKL does not use AVX-512 here")


def _on_gpu() -> Backend:
    return Backend("torch's linear", "the library of the GPU's maker serves it")


_forward = register(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    cpu=_forward_cpu,
    cuda=F.linear,
    fake=empty_product,
)
differentiate(_forward, _apply_backward, save_factors)
serve("linear", cpu=_on_cpu, cuda=_on_gpu)
