"""The attention kernels in the interpreter: values and gradients beside float64, lengths, hidden keys, dropout."""

from __future__ import annotations

import pytest
import torch
from d2v_fast.kernels import launch
from launches import run_attention

from d2v_fast import reference
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.fused_attention import fused_attention


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(launch, "attention_tile", lambda size, dim: launch.AttentionTile(16, 32, 16, 4))


def make(lengths, heads=2, dim=12, dtype=torch.float32, extra=1):
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    tokens = sum(lengths)
    positions = [torch.randperm(300, generator=generator)[:n].sort()[0] for n in lengths]
    for own in positions:
        own[:extra] = -1
    factors = torch.rand(heads, generator=generator) * 0.1
    qkv = torch.randn(tokens, 3, heads, dim, generator=generator, dtype=torch.float64).to(dtype)
    gradient = torch.randn(tokens, heads, dim, generator=generator, dtype=torch.float64).to(dtype)
    return qkv, starts, torch.cat(positions), factors, gradient


def exact(qkv, starts, positions, factors, gradient, visible=None):
    """In float64, one sequence after the other."""
    qkv, factors = qkv.double().requires_grad_(), factors.double().requires_grad_()
    parts = []
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        own = slice(first, end)
        bias = Distances(factors).bias(positions[own])
        if visible is not None:
            bias = bias.masked_fill(~visible[own], -torch.inf)
        parts.append(reference.attention(*(x[None, own] for x in qkv.unbind(1)), bias[None])[0])
    out = torch.cat(parts)
    return out.detach(), *torch.autograd.grad(out, (qkv, factors), gradient.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", [[16, 32], [1, 33, 0, 15], [47]], ids=str)
def test_values_and_gradients(lengths, dtype):
    given = make(lengths, dtype=dtype)
    out, _, of_qkv, of_factors = run_attention(*given)
    expected = exact(*given)
    tolerance = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for ours, theirs in zip((out, of_qkv, of_factors), expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * scale)


def test_hidden_keys_and_queries_without_a_key():
    given = make([20, 9])
    visible = torch.rand(29, generator=torch.Generator().manual_seed(2)) < 0.6
    visible[20:] = False
    out, logs, of_qkv, _ = run_attention(*given, visible=visible)
    assert not out[20:].any()
    assert not of_qkv[20:].any()
    assert logs[:, 20:].isposinf().all()
    visible[20:] = True
    out, _, of_qkv, of_factors = run_attention(*given, visible=visible)
    for ours, theirs in zip((out, of_qkv, of_factors), exact(*given, visible), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=3e-6 * theirs.abs().max().item())


def test_the_weights_that_are_dropped_are_those_of_the_cpu():
    qkv, starts, positions, factors, gradient = make([40, 17])
    torch.manual_seed(5)
    seed = int(torch.randint(2**62, ()))
    out, _, of_qkv, of_factors = run_attention(qkv, starts, positions, factors, gradient, seed=seed, dropout=0.3)
    torch.manual_seed(5)
    qkv.requires_grad_()
    factors.requires_grad_()
    theirs = fused_attention(*qkv.unbind(1), starts, positions, factors, 40, dropout=0.3)
    torch.testing.assert_close(out, theirs, rtol=0, atol=1e-5)
    for ours, other in zip((of_qkv, of_factors), torch.autograd.grad(theirs, (qkv, factors), gradient), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-4)
