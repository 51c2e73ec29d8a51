"""Norm and GELU behind a convolution of a front end for speech, forward and backward.

Figures are CPU times of one thread or more.
"""

from __future__ import annotations

import time

import pytest
import torch

from d2v_fast import ops
from d2v_fast.ops.norm_gelu import earlier_norm_gelu

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.mark.benchmark(group="norm_gelu", timer=time.process_time)
@pytest.mark.parametrize("name", FORMATS)
def test_norm_gelu(name, compare, quick):
    shape = (1, 50, 32) if quick else (4, 6399, 512)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(FORMATS[name]).requires_grad_()
    weight, bias = (torch.randn(shape[-1], generator=generator).requires_grad_() for _ in range(2))
    grad = torch.randn(shape, generator=generator).to(FORMATS[name])

    def ours():
        return ops.norm_gelu(x, weight, bias)

    def theirs():
        with earlier_norm_gelu():
            return ops.norm_gelu(x, weight, bias)

    def step(function):
        return lambda: torch.autograd.grad(function(), (x, weight, bias), grad)

    torch.testing.assert_close(ours(), theirs(), rtol=2e-2, atol=4e-2 if name == "bfloat16" else 1e-5)
    compare(
        f"norm and GELU, {list(shape)}, {name}",
        step(ours),
        {"layer_norm, gelu; the norm computed again": step(theirs)},
        moved=None,
        rounds=7,
        clock=time.process_time,
    )
