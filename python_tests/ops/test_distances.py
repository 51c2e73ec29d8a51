"""Attention with a bias by distances: packed and whole sequences, extra tokens, padding, gradients of the factors."""

from __future__ import annotations

import sys

import pytest
import torch

from d2v_fast import ops, reference
from d2v_fast.ops.attention import KERNELS, biased
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.packing import plan_kept

CPU = torch.device("cpu")


def make(*shape):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(*shape, 3, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    factors = torch.rand(2, generator=generator, dtype=torch.float64, requires_grad=True)
    return tokens, factors, torch.randn(*shape, 2, 4, generator=generator, dtype=torch.float64)


def gradients(output, weight, leaves):
    return torch.autograd.grad((output * weight).sum(), leaves)


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def bias_by_hand(factors, extra, length):
    bias = torch.zeros(2, extra + length, extra + length, dtype=torch.float64)
    for query in range(length):
        for key in range(length):
            bias[:, extra + query, extra + key] = -factors * abs(query - key)
    return bias


@pytest.mark.parametrize("name", ["blocks", "sdpa"])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize(
    "kept", [[1, 3, 4, 8, 9, 11], [0, 2, 5, 6, 8, 9], [0, 1, 2, 3, 8]], ids=["some", "equal", "none"]
)
def test_packed_sequences(name, extra, kept):
    """Three sequences of width 4: the same as with the whole bias gathered at the kept tokens."""
    packing = plan_kept(torch.tensor(kept), 3, 4, CPU, KERNELS[name], extra)
    tokens, factors, weight = make(1, sum(packing.lengths))
    ours = ops.attention(*tokens.unbind(2), packing.with_bias(Distances(factors)))
    whole = bias_by_hand(factors, extra, 4).unsqueeze(0)
    theirs = ops.attention(*tokens.unbind(2), packing.with_bias(whole))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert_same(gradients(ours, weight, [tokens, factors]), gradients(theirs, weight, [tokens, factors]))


@pytest.mark.parametrize("fusible", [True, False])
@pytest.mark.parametrize("name", ["blocks", "sdpa"])
@pytest.mark.parametrize("extra", [0, 2])
def test_padding_that_is_kept_is_attended_to_by_nothing(name, extra, fusible, monkeypatch):
    """By our own kernel, and by torch's operators where that does not serve."""
    monkeypatch.setattr(sys.modules["d2v_fast.ops.attention"], "_fusible", lambda query: fusible)
    packing = plan_kept(torch.tensor([1, 3, 4, 6, 7, 8, 9, 11]), 3, 4, CPU, KERNELS[name], extra)
    tokens, factors, weight = make(1, sum(packing.lengths))
    valid = torch.arange(4) < torch.tensor([[4], [3], [2]])
    ours = ops.attention(*tokens.unbind(2), packing.with_bias(Distances(factors, visible=valid)))
    visible = torch.nn.functional.pad(valid, (extra, 0), value=True)[:, None, None, :]
    whole = bias_by_hand(factors, extra, 4).unsqueeze(0).masked_fill(~visible, -torch.inf)
    theirs = KERNELS[name](*(x.squeeze(0) for x in tokens.unbind(2)), packing.with_bias(whole), 0.0).unsqueeze(0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert_same(gradients(ours, weight, [tokens, factors]), gradients(theirs, weight, [tokens, factors]))


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("padding", [False, True])
def test_whole_sequences(extra, padding):
    tokens, factors, weight = make(3, extra + 5)
    distances = Distances(factors, extra=extra)
    bias = bias_by_hand(factors, extra, 5).unsqueeze(0)
    if padding:
        visible = torch.arange(extra + 5) < extra + torch.tensor([[5], [2], [3]])
        distances = biased(visible[:, None, None, :], distances)
        bias = bias.masked_fill(~visible[:, None, None, :], -torch.inf)
    ours = ops.attention(*tokens.unbind(2), distances)
    theirs = reference.attention(*tokens.unbind(2), bias)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert_same(gradients(ours, weight, [tokens, factors]), gradients(theirs, weight, [tokens, factors]))


def test_positions_of_kept_tokens():
    packing = plan_kept(torch.tensor([1, 3, 8, 9]), 3, 4, CPU, KERNELS["blocks"], 2)
    assert packing.positions().tolist() == [-1, -1, 1, 3, -1, -1, -1, -1, 0, 1]
    assert plan_kept(torch.tensor([1, 3, 8]), 3, 4, CPU, KERNELS["blocks"]).positions().tolist() == [1, 3, 0]
