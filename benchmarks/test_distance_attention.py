"""Attention over views, forward and backward, float32: with a bias by distances, and without one.

Figures are CPU times of one thread or more. Beside them stand SDPA with the bias as a tensor, and the bare products: as
many as attention needs (7 of [T, T] with the width of a head), what is left when everything else is free.
"""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.ops.distance_attention import distance_attention

CASES = {
    "distances": (4, 500, 12, 64, True, 0.0),
    "distances, dropout": (4, 500, 12, 64, True, 0.1),
    "no bias, dropout": (8, 256, 4, 64, False, 0.1),
    "no bias": (32, 40, 6, 64, False, 0.0),
}


@pytest.mark.benchmark(group="distance_attention", timer=time.process_time)
@pytest.mark.parametrize("case", CASES)
def test_distance_attention(case, compare, quick):
    samples, length, heads, dim, biased, dropout = CASES[case]
    if quick:
        samples, length, heads, dim = 2, 9, 2, 8
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(samples * length, 3, heads, dim, generator=generator).requires_grad_()
    grad = torch.randn(samples * length, heads, dim, generator=generator)
    positions = torch.arange(length).repeat(samples)
    starts = torch.arange(samples + 1, dtype=torch.int32) * length
    factors = (torch.rand(heads, generator=generator) * 0.1).requires_grad_() if biased else None
    apart = (torch.arange(length)[:, None] - torch.arange(length)).abs().float()
    own = [qkv] if factors is None else [qkv, factors]

    def ours():
        return distance_attention(*qkv.unbind(1), starts, positions, factors, length, dropout=dropout)

    def sdpa():
        query, key, value = qkv.view(samples, length, 3, heads, dim).permute(2, 0, 3, 1, 4)
        bias = None if factors is None else -factors[:, None, None] * apart
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(0, 1)

    left = torch.randn(samples * heads, length, dim, generator=generator)
    right = torch.randn(samples * heads, length, length, generator=generator)

    def products():
        for _ in range(3):  # scores twice, and the gradient of the weights
            left @ left.transpose(1, 2)
        for _ in range(4):  # the output, and the gradients of query, key and value
            right @ left

    def step(function):
        return lambda: torch.autograd.grad(function(), own, grad)

    if not dropout:
        torch.testing.assert_close(ours(), sdpa(), rtol=1e-4, atol=1e-4)
    compare(
        f"attention, {case}: {samples} x {length} tokens, {heads} heads of {dim}",
        step(ours),
        {"SDPA, the bias as a tensor" if biased else "SDPA": step(sdpa), "the bare products (bmm)": products},
        moved=None,
        rounds=7,
        clock=time.process_time,
    )
