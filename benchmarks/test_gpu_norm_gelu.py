"""Norm and GELU behind the first convolution of speech Base on a GPU, forward and backward: a clip of 20 s."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops


def under_autocast(x, weight, bias):
    """torch's operators, as autocast calls them: both in float32, the result in the format of the next convolution."""
    return F.gelu(F.layer_norm(x.float(), x.shape[-1:], weight, bias)).to(x.dtype)


@pytest.mark.benchmark(group="gpu norm_gelu")
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=str)
def test_norm_gelu(compare_on_gpu, compiled, rotate, gpu, quick, low):
    frames, channels = (20, 48) if quick else (63999, 512)
    moved = frames * channels * 5 * low.itemsize
    weight, bias = (torch.randn(channels, device=gpu, requires_grad=True) for _ in range(2))

    def make(seed):
        generator = torch.Generator(gpu).manual_seed(seed)
        x, grad = (torch.randn(frames, channels, generator=generator, device=gpu).to(low) for _ in range(2))
        return x.requires_grad_(), grad

    sets = rotate(make, moved)

    def each(function):
        def run(turn):
            x, grad = sets[turn % len(sets)]
            return torch.autograd.grad(function(x, weight, bias), (x, weight, bias), grad)

        return run

    ours = each(ops.norm_gelu)
    for mine, theirs in zip(ours(0), each(under_autocast)(0), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=1e-2 * theirs.abs().max().item())
    baselines = {"eager": each(under_autocast), "torch.compile": each(compiled(under_autocast))}
    compare_on_gpu(f"norm and GELU, {[frames, channels]}, {low}".replace("torch.", ""), ours, baselines, moved=moved)
