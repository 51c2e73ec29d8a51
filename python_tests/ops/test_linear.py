"""Linear maps: torch's numbers, whoever computes the products, and who does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops
from d2v_fast.ops.linear import LEAST, _reason_against_bfloat16, _reason_for_torch, linear, torch_products
from d2v_fast.training.precision import products

here = pytest.mark.skipif(bool(_reason_for_torch()), reason=f"oneDNN is not asked: {_reason_for_torch()}")


def tensors(*shape, outputs=512, dtype=torch.float32):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*shape), torch.randn(outputs, shape[-1]), torch.randn(outputs)
    return [part.to(dtype).requires_grad_() for part in (x, weight, bias)]


def is_ours(x, weight):
    return "d2v_fast" in linear(x, weight).grad_fn.name()


@pytest.mark.parametrize("shape", [(130, 256), (3, 50, 256), (2, 256)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_torchs(shape, biased):
    x, weight, bias = tensors(*shape)
    given = (x, weight, bias) if biased else (x, weight)
    exact = [part.detach().double().requires_grad_() for part in given]
    ours, expected = linear(*given), F.linear(*exact)
    grad = torch.randn_like(expected)
    found = [ours, *torch.autograd.grad(ours, given, grad.float())]
    for own, right in zip(found, [expected, *torch.autograd.grad(expected, exact, grad)], strict=True):
        torch.testing.assert_close(own, right.float(), rtol=0, atol=2e-6 * right.detach().abs().max().item())


@here
def test_gradients_that_are_no_plain_rows():
    x, weight, bias = tensors(2, 70, 256)
    torch.testing.assert_close(
        torch.autograd.grad(linear(x.transpose(0, 1), weight, bias).sum(), (x, weight, bias)),
        torch.autograd.grad(F.linear(x.transpose(0, 1), weight, bias).sum(), (x, weight, bias)),
        rtol=1e-5, atol=1e-4,
    )  # fmt: skip


@here
def test_what_wants_no_gradient_gets_none_and_a_second_gradient_is_possible():
    x, weight, _ = tensors(130, 256)
    linear(x.detach(), weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    (first,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    ones = torch.ones_like(x)
    torch.testing.assert_close(second, 2 * (ones @ weight.T @ weight), rtol=1e-4, atol=1e-2)


@here
def test_torch_keeps_what_is_small_other_formats_graphs_and_runs_that_began_with_it():
    x, weight, _ = tensors(128, 256)
    assert x.numel() * len(weight) == LEAST
    assert is_ours(x, weight)
    assert not is_ours(x[:-1], weight)
    assert not is_ours(x.double(), weight.double())
    assert not is_ours(torch.ones(4096), weight.new_ones(4096, 4096).requires_grad_())
    with torch_products():
        assert not is_ours(x, weight)
    with products(2):
        assert not is_ours(x, weight)
    with products(3):
        assert is_ours(x, weight)
    program = torch.export.export(Map(), (x.detach(), weight.detach()))
    assert "d2v_fast" not in str(program.graph)


in_bfloat16 = pytest.mark.skipif(bool(_reason_against_bfloat16()), reason=_reason_against_bfloat16() or "served")


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@in_bfloat16
@pytest.mark.parametrize("biased", [True, False])
def test_under_autocast_products_of_bfloat16_numbers_are_as_exact_as_torchs(biased):
    x, weight, bias = tensors(3, 50, 256)
    given = (x, weight, bias) if biased else (x, weight)
    exact = [part.detach().bfloat16().double().requires_grad_() for part in given]
    grad = torch.randn(3, 50, 512).bfloat16()
    with autocast():
        ours = linear(*given)
    assert "d2v_fast" in ours.grad_fn.name()
    expected = F.linear(*exact)
    found = [ours, *torch.autograd.grad(ours, given, grad)]
    assert [part.dtype for part in found] == [torch.bfloat16, *[torch.float32] * len(given)]
    for own, right in zip(found, [expected, *torch.autograd.grad(expected, exact, grad.double())], strict=True):
        torch.testing.assert_close(own.double(), right.detach(), rtol=2**-8, atol=2e-6 * right.abs().max().item())


@in_bfloat16
def test_runs_that_began_with_torchs_products_of_bfloat16_numbers_keep_their_bits():
    given = tensors(130, 256)
    with autocast():
        theirs = F.linear(*given)
        grads = torch.autograd.grad(theirs.sum(), given)
        for rules in (2, 3):
            with products(rules):
                ours = linear(*given)
                assert "d2v_fast" not in ours.grad_fn.name()
                assert torch.equal(ours, theirs)
                assert all(map(torch.equal, torch.autograd.grad(ours.sum(), given), grads))
        with products(4):
            assert "d2v_fast" in linear(*given).grad_fn.name()


@here
def test_is_a_well_behaved_operator():
    x, weight, bias = tensors(3, 4, 8, outputs=5)
    torch.library.opcheck(torch.ops.d2v_fast.linear.default, (x, weight, bias))


@here
def test_same_bits_at_every_call():
    x, weight, bias = tensors(130, 256)
    first = linear(x, weight, bias)
    assert all(torch.equal(linear(copy.deepcopy(x), weight, bias), first) for _ in range(3))


def test_tells_who_serves():
    told = ops.backends()["linear"]["cpu"]
    assert ("oneDNN" in told.implementation) == (not _reason_for_torch())
    assert told.reason


class Map(torch.nn.Module):
    def forward(self, x, weight):
        return linear(x, weight)
