"""A layer of a decoder, forward and backward, float32: grouped convolution, norm, GELU and residual.

Figures are CPU times of one thread or more. Beside them stands torch's bare convolution with channels last: what is
left when norm, GELU and residual are free.
"""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops

CASES = {
    "frames, to another width": ((8, 500, 768), 384, 7, 16),
    "frames": ((8, 500, 384), 384, 7, 16),
    "grid, narrow": ((32, 14, 14, 384), 384, 3, 16),
    "grid": ((8, 14, 14, 768), 768, 3, 16),
}


@pytest.mark.benchmark(group="decoder_layer", timer=time.process_time)
@pytest.mark.parametrize("case", CASES)
def test_decoder_layer(case, compare, quick):
    shape, outputs, kernel, groups = CASES[case]
    if quick:
        shape, outputs, groups = (1, *(6 for _ in shape[1:-1]), 32), 32, 4
    axes = len(shape) - 2
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_()
    weight = torch.randn(outputs, shape[-1] // groups, *[kernel] * axes, generator=generator).requires_grad_()
    bias = torch.randn(outputs, generator=generator).requires_grad_()
    grad = torch.randn(*shape[:-1], outputs, generator=generator)
    convolution = F.conv1d if axes == 1 else F.conv2d

    def bare(x):  # channels last for torch: no transpose is made
        wide = x.movedim(-1, 1)
        wide = wide if axes == 2 else wide.unsqueeze(2)
        own = weight if axes == 2 else weight.unsqueeze(2)
        z = F.conv2d(wide, own, bias, padding=(kernel // 2 if axes == 2 else 0, kernel // 2), groups=groups)
        return (z if axes == 2 else z.squeeze(2)).movedim(1, -1)

    def last():
        y = F.gelu(F.layer_norm(bare(x), (outputs,)))
        return x + y if x.shape == y.shape else y

    def released():  # channels first, and transposed for the norm and back
        first = x.movedim(-1, 1)
        z = convolution(first.contiguous(), weight, bias, padding=kernel // 2, groups=groups)
        y = F.gelu(F.layer_norm(z.transpose(1, -1), (outputs,)).transpose(1, -1))
        return (first + y if x.shape[-1] == outputs else y).movedim(1, -1)

    def ours():
        return ops.decoder_layer(x, weight, bias, groups, residual=True)

    def step(function):
        return lambda: torch.autograd.grad(function(), (x, weight, bias), grad)

    for other in (last, released):
        torch.testing.assert_close(ours(), other(), rtol=1e-4, atol=1e-4)
    compare(
        f"decoder layer, {case}: {list(shape)} to {outputs}, {groups} groups, kernel {kernel}",
        step(ours),
        {
            "conv, layer_norm, gelu, add; transposed (fairseq)": step(released),
            "the same, channels last": step(last),
            "the bare convolution, channels last": step(lambda: bare(x)),
        },
        moved=None,
        rounds=7,
        clock=time.process_time,
    )
