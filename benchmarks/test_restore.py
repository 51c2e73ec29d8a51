"""Kept tokens and noise back on the grid, forward and backward: 32 views of 196 patches of which 39 are kept, float32.

Figures are CPU times of one thread or more; the limit is the streaming copy: each byte of the grid read once and
written once, forward, and the tokens' gradient, backward.
"""

from __future__ import annotations

import time

import pytest
import torch

from d2v_fast import ops


@pytest.mark.benchmark(group="restore", timer=time.process_time)
def test_restore(compare, quick, size_of):
    samples, width, count, dim = (2, 16, 4, 48) if quick else (32, 196, 39, 768)
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(samples, width, generator=generator).argsort(1)[:, :count].sort(1).values
    rest = torch.ones(samples, width, dtype=torch.bool).scatter_(1, kept, False).nonzero()[:, 1].view(samples, -1)
    flat = (kept + torch.arange(samples)[:, None] * width).flatten()
    tokens = torch.randn(samples * count, dim, generator=generator).requires_grad_()
    noise = torch.randn(samples * (width - count), dim, generator=generator)
    grad = torch.randn(samples, width, dim, generator=generator)
    order = torch.cat([kept, rest], 1).argsort(1)[:, :, None].expand(-1, -1, dim)
    hidden = torch.ones(samples * width, dtype=torch.bool).index_fill(0, flat, False).nonzero().flatten()

    def released():  # concatenate, and gather by the inverse of the shuffle
        x = torch.cat([tokens.view(samples, count, dim), noise.view(samples, -1, dim)], 1)
        return x.gather(1, order)

    def copied():
        grid = noise.new_empty(samples * width, dim).index_copy(0, hidden, noise)
        return grid.index_copy(0, flat, tokens).view(samples, width, dim)

    def ours():
        return ops.restore(tokens, flat, noise, samples, width)

    torch.testing.assert_close(ours(), released(), rtol=0, atol=0)
    torch.testing.assert_close(ours(), copied(), rtol=0, atol=0)
    compare(
        f"restore, {[samples, width, dim]}, {count} kept",
        lambda: torch.autograd.grad(ours(), tokens, grad),
        {
            "cat and gather (fairseq)": lambda: torch.autograd.grad(released(), tokens, grad),
            "two index_copy": lambda: torch.autograd.grad(copied(), tokens, grad),
        },
        moved=2 * size_of(grad) + 2 * size_of(tokens),
        clock=time.process_time,
    )
