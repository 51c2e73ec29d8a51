"""The Triton route of data2vec 2.0: the operations on CPU tensors, their kernels in the strict interpreter."""

from __future__ import annotations

import cases
import pytest
import torch
import triton_interpreter
from d2v_fast.kernels import launch
from pretending import module, registered_for_gpus

from d2v_fast import ops, reference
from d2v_fast.ops.device import norm_gelu

ATTENTION = ["attend", "attend_backward_queries", "attend_backward_keys"]


@pytest.fixture(autouse=True)
def gpu(pretended, monkeypatch):
    pretended.with_triton(triton_interpreter.launch, [])
    monkeypatch.setattr(module("norm_gelu"), "_serves", norm_gelu.serves)
    monkeypatch.setattr(launch, "attention_tile", lambda size, dim: launch.AttentionTile(32, 16, 32, 4))
    with registered_for_gpus():
        yield pretended


@pytest.mark.parametrize("dtype", cases.LOW, ids=str)
def test_restore(dtype, gpu):
    cases.restored(dtype)
    assert gpu.launches == ["restore"] * 4


@pytest.mark.parametrize(("size", "kernel"), [((9,), 3), ((9,), 4), ((4, 3), 3)], ids=str)
def test_decoder_layers(size, kernel, gpu):
    for dtype in cases.LOW:
        cases.decoder_layers(dtype, size, kernel)
    assert gpu.launches == ["finish", "unfinish"] * 6
    cases.decoder_layers(torch.float64, size, kernel)
    assert len(gpu.launches) == 12


@pytest.mark.parametrize(("rows", "channels"), [(40, 20), (3, 37)], ids=str)
def test_norm_and_gelu(rows, channels, gpu, no_worse_than):
    for dtype in cases.LOW:
        cases.norm_and_gelu(dtype, rows, channels, no_worse_than)
    assert gpu.launches == ["norm_gelu", "norm_gelu_backward"] * 6


def test_norm_and_gelu_of_nothing_and_with_gradients_of_gradients(gpu):
    weight, bias = torch.ones(20, requires_grad=True), torch.zeros(20, requires_grad=True)
    nothing = ops.norm_gelu(torch.zeros(0, 20, requires_grad=True), weight, bias)
    assert nothing.shape == (0, 20)
    assert not any(part.any() for part in torch.autograd.grad(nothing.sum(), (weight, bias)))
    assert gpu.launches == []
    x, second = torch.randn(3, 20, requires_grad=True), []
    for function in (ops.norm_gelu, lambda *given: reference.norm_gelu(*given, 1e-5)):
        (first,) = torch.autograd.grad(function(x, weight, bias).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert gpu.launches == ["norm_gelu"]
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden", [False, True])
def test_attention(hidden, gpu):
    for dtype in cases.LOW:
        cases.attention(dtype, hidden=hidden)
    assert gpu.launches == ATTENTION * 3


def test_wide_heads_and_float64_are_plain_torchs(gpu):
    cases.attention(torch.float64, hidden=True)
    cases.attention(torch.float32, hidden=False, dim=launch.LARGEST_HEAD + 4)
    assert gpu.launches == []


def test_without_triton_plain_torch_serves(gpu):
    gpu.routes(triton=False)
    cases.restored(torch.bfloat16)
    cases.decoder_layers(torch.bfloat16, (4, 3), 3)
    cases.attention(torch.float32, hidden=True)
    assert gpu.launches == []
