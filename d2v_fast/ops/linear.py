"""Linear maps, whose products on a CPU are oneDNN's where the way that torch goes is the slower one.

torch asks MKL for float32 products. On processors of other makers than Intel that library takes its AVX2 code, though
they have AVX-512; oneDNN, which is a part of torch as well, takes what is there. Both compute in float32 throughout.
In bfloat16 torch asks oneDNN itself, but adds the bias in a pass of its own, and autocast copies each weight anew in
every step; here the copies are those of `shadows`.
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
from d2v_fast.ops.shadows import rounded

LEAST = 1 << 24
"""Products of two numbers from which on oneDNN is asked: it prepares code for each size that it has not seen yet."""

FORMATS = (torch.float32, torch.bfloat16)
"""Of the products that may be oneDNN's."""

_torch_alone: ContextVar[tuple[torch.dtype, ...]] = ContextVar("torch_alone", default=())
"""Formats whose products are left to torch."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, on a CPU by oneDNN where that is faster; under autocast in its format.

    Args:
        x: [..., C].
        weight: [D, C].
        bias: [D].

    Returns:
        [..., D].
    """
    if in_bfloat16(x, weight):
        x, weight, bias = x.to(torch.bfloat16), rounded(weight), None if bias is None else bias.to(torch.bfloat16)
    if not _is_ours(x, weight):
        return F.linear(x, weight, bias)
    y: Tensor = _forward(x, weight, bias)
    return y


def in_bfloat16(x: Tensor, weight: Tensor) -> bool:
    """Whether autocast asks for bfloat16 on a CPU; a graph does its own casting."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not (x.is_cpu and weight.is_cpu):
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


@contextlib.contextmanager
def torch_products(*formats: torch.dtype) -> Iterator[None]:
    """Leaves the products to torch, all or those in these formats, for the bits of a run that has begun with them."""
    before = _torch_alone.set(formats or FORMATS)
    try:
        yield
    finally:
        _torch_alone.reset(before)


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    # A graph has torch's own operators, which the compiler joins and others understand.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not (x.is_cpu and weight.is_cpu):
        return False
    if x.dim() < 2 or x.dtype != weight.dtype:
        return False
    if x.dtype != torch.bfloat16 and torch.is_autocast_enabled("cpu"):
        return False
    return by_onednn(x, x.numel() * len(weight))


def by_onednn(x: Tensor, products: int) -> bool:
    """Whether so many products of x, a tensor of the CPU, with another of its format are oneDNN's."""
    if x.dtype not in FORMATS or products < LEAST or x.dtype in _torch_alone.get():
        return False
    return not (_reason_for_torch() if x.dtype == torch.float32 else _reason_against_bfloat16())


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


@cache
def _reason_against_bfloat16() -> str:
    """Why oneDNN is not asked for products in bfloat16 by us; empty if it is."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch has no oneDNN"
    return "" if has_bfloat16_products() else "the processor has no products of bfloat16 numbers"


@cache
def has_bfloat16_products() -> bool:
    """Whether this processor multiplies bfloat16 numbers (AVX-512 BF16 or AMX), and does not only emulate it."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


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
    """[D, C]. In float32 oneDNN copies the first factor to have its rows side by side, so that is the smaller one."""
    if x.dtype == torch.bfloat16:  # torch asks oneDNN in a form that needs no copy
        return grad.t() @ x
    if x.shape[1] < grad.shape[1] and by_onednn(x, x.numel() * grad.shape[1]):
        return linear(x.t(), grad.t()).t().contiguous()
    return linear(grad.t(), x.t())


def _on_cpu() -> Backend:
    reason = _reason_for_torch()
    if reason:
        return Backend("torch's linear", reason)
    return Backend("oneDNN, from 2^24 products on; else torch's linear", "MKL does not use AVX-512 here")


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
