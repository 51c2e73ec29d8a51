"""Attention forward and backward at the shapes of whole steps, and of views: our own beside torch's.

Figures are CPU times of one thread or more. Beside ours stand SDPA with the same bias and dropout, and the bare
products: as many as attention needs (7 of [T, T] with the width of a head), what is left when everything else is free.
"""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.ops.attention import attention, blocks, fused
from d2v_fast.ops.fused_attention import fused_attention
from d2v_fast.ops.packing import plan_packing

SHAPES = {
    "speech small": (2, 249, 4, 64),
    "speech Base": (1, 249, 12, 64),
    "text Base": (4, 128, 12, 64),
    "ViT-S": (8, 197, 6, 64),
    "ViT-B": (8, 197, 12, 64),
    "views of speech": (4, 500, 12, 64),
    "views of images": (32, 40, 6, 64),
}
KINDS = ("none", "dropout", "bias", "bias and dropout", "distances", "distances and dropout")
CASES = [
    *((shape, kind) for shape in ("speech small", "speech Base", "text Base") for kind in ("none", "dropout")),
    *((shape, kind) for shape in ("ViT-S", "ViT-B") for kind in KINDS[:4]),
    *(("views of speech", kind) for kind in KINDS[4:]),
    *(("views of images", kind) for kind in KINDS[:2]),
]


@pytest.mark.benchmark(group="fused_attention", timer=time.process_time)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "kind"), CASES, ids=[", ".join(case) for case in CASES])
def test_fused_attention(shape, kind, dtype, compare, quick):
    samples, length, heads, dim = (2, 9, 2, 8) if quick else SHAPES[shape]
    dropout = 0.1 if "dropout" in kind else 0.0
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(samples * length, 3, heads, dim, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(samples * length, heads, dim, generator=generator).to(dtype)
    positions = torch.arange(length).repeat(samples)
    starts = torch.arange(samples + 1, dtype=torch.int32) * length
    factors = (torch.rand(heads, generator=generator) * 0.1).requires_grad_() if "distances" in kind else None
    bias = torch.randn(1, heads, length, length, generator=generator).requires_grad_() if "bias" in kind else None
    apart = (torch.arange(length)[:, None] - torch.arange(length)).abs().float()
    own = [qkv, *(x for x in (factors, bias) if x is not None)]

    def ours():
        return fused_attention(*qkv.unbind(1), starts, positions, factors, length, bias=bias, dropout=dropout)

    def sdpa():
        query, key, value = qkv.view(samples, length, 3, heads, dim).permute(2, 0, 3, 1, 4)
        added = bias if factors is None else -factors[:, None, None] * apart
        added = None if added is None else added.to(dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(0, 1)

    if not dropout:
        close = 1e-4 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(ours(), sdpa(), rtol=close, atol=close)
    _compare(compare, f"{shape}, {kind}, {dtype}".replace("torch.", ""), ours, sdpa, own, grad, samples, length)


@pytest.mark.benchmark(group="fused_attention", timer=time.process_time)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_packed(dropout, dtype, compare, quick):
    """Sequences of different lengths, as text has them; torch's takes one after the other."""
    lengths = [3, 9] if quick else [128, 97, 61, 30]
    heads, dim = (2, 8) if quick else (12, 64)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, sum(lengths), 3, heads, dim, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(1, sum(lengths), heads, dim, generator=generator).to(dtype)

    def run(kernel):
        packing = plan_packing(torch.tensor(lengths), max(lengths), torch.device("cpu"), kernel)
        return lambda: attention(*qkv.unbind(2), packing, dropout=dropout)

    name = f"packed text, dropout {dropout}, {dtype}".replace("torch.", "")
    _compare(compare, name, run(fused), run(blocks), [qkv], grad, 0, 0)


def _compare(compare, name, ours, theirs, own, grad, samples, length):
    """In turn; beside sequences of one length the bare products too."""

    def step(function):
        return lambda: torch.autograd.grad(function(), own, grad)

    baselines = {"SDPA": step(theirs)}
    if samples:
        heads, dim = grad.shape[-2:]
        left = torch.randn(samples * heads, length, dim).to(grad.dtype)
        right = torch.randn(samples * heads, length, length).to(grad.dtype)

        def products():
            for _ in range(3):  # scores twice, and the gradient of the weights
                left @ left.transpose(1, 2)
            for _ in range(4):  # the output, and the gradients of query, key and value
                right @ left

        baselines["the bare products (bmm)"] = products
    compare(f"attention, {name}", step(ours), baselines, moved=None, rounds=7, clock=time.process_time)
