"""GELU before a linear map: torch's bits, and one large tensor less for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import library as torch_library

from d2v_fast.ops import gelu_linear
from d2v_fast.ops.linear import linear, torch_products


def torchs(x, weight, bias):
    return F.linear(F.gelu(x), weight, bias)


def given(dtype=torch.float32, shape=(3, 20, 96)):
    torch.manual_seed(0)
    parts = torch.randn(shape), torch.randn(shape[-1], shape[-1]), torch.randn(shape[-1])
    return [part.to(dtype).requires_grad_() for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_same_bits_as_torchs(dtype):
    arguments = given(dtype)
    found, expected = gelu_linear(*arguments), torchs(*arguments)
    grad = torch.randn_like(found)
    for a, b in zip(
        [found, *torch.autograd.grad(found, arguments, grad)],
        [expected, *torch.autograd.grad(expected, arguments, grad)],
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_under_autocast_the_bits_are_those_of_both_one_after_the_other():
    x, *rest = given()
    x = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = gelu_linear(x, *rest), linear(F.gelu(x), *rest)
    assert "d2v_fast" in found.grad_fn.name()
    grad = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(y, [x, *rest], grad) for y in (found, expected)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found, expected)


def test_keeps_one_large_tensor_where_torch_keeps_two(large_kept):
    arguments = given()
    assert (large_kept(gelu_linear, arguments), large_kept(torchs, arguments)) == (1, 2)


def test_what_wants_no_gradient_gets_none_and_a_second_gradient_is_right():
    x, weight, bias = given(torch.float64, (2, 3, 6))
    gelu_linear(x, weight.detach(), bias.detach()).sum().backward()
    assert (x.grad is None, weight.grad, bias.grad) == (False, None, None)
    assert torch.autograd.gradgradcheck(gelu_linear, (x, weight, bias))
    with torch.no_grad(), torch_products():
        assert torch.equal(gelu_linear(x, weight, bias), torchs(x, weight, bias))


def test_is_a_well_behaved_operator_and_leaves_graphs_to_torch():
    arguments = given(shape=(2, 3, 6))
    torch_library.opcheck(torch.ops.d2v_fast.gelu_linear.default, tuple(arguments))
    torch._dynamo.reset()
    compiled = torch.compile(gelu_linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), gelu_linear(*arguments))
