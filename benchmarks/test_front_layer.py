"""The first layer of a front end for speech, from the waveform: convolution, norm and GELU, forward and backward.

Beside the same by two operators, whose products are a library's. Figures are CPU times of one thread or more.
"""

from __future__ import annotations

import time

import pytest
import torch

from d2v_fast import ops


@pytest.mark.benchmark(group="front_layer", timer=time.process_time)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_front_layer(name, compare, quick):
    samples, channels = (2_000, 32) if quick else (80_000, 512)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, samples, 1, generator=generator)
    weight = torch.randn(channels, 1, 10, generator=generator).requires_grad_()
    norm_weight, norm_bias = (torch.randn(channels, generator=generator).requires_grad_() for _ in range(2))

    def ours():
        return ops.front_layer(x, weight, norm_weight, norm_bias, 5)

    def theirs():
        return ops.norm_gelu(ops.strided_convolution(x, weight, 5), norm_weight, norm_bias)

    def step(function):
        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
                y = function()
            return torch.autograd.grad(y, (weight, norm_weight, norm_bias), grad)

        return run

    with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
        one, other = ours(), theirs()
        torch.testing.assert_close(one, other, rtol=2e-2, atol=6e-2 if name == "bfloat16" else 1e-4)
    grad = torch.randn(one.shape, generator=generator).to(one.dtype)
    compare(
        f"first layer, {list(x.shape)} to {channels} channels, {name}",
        step(ours),
        {"convolution, then norm and GELU": step(theirs)},
        moved=None,
        rounds=7,
        clock=time.process_time,
    )
