"""GELU before a linear map, and norm before GELU: torch's bits, and one large tensor less for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.ops import gelu_linear, norm_gelu
from d2v_fast.ops.linear import linear, torch_products

SHAPE = (3, 20, 96)


def case(name, dtype=torch.float32, shape=SHAPE):
    """Ours, torch's, and the arguments."""
    torch.manual_seed(0)
    x, bias = torch.randn(shape), torch.randn(shape[-1])
    weight = torch.randn(shape[-1], shape[-1]) if name == "gelu_linear" else torch.randn(shape[-1])
    given = [part.to(dtype).requires_grad_() for part in (x, weight, bias)]
    if name == "gelu_linear":
        return gelu_linear, lambda x, w, b: F.linear(F.gelu(x), w, b), given
    return norm_gelu, lambda x, w, b: F.gelu(F.layer_norm(x, w.shape, w, b)), given


@pytest.mark.parametrize("name", ["gelu_linear", "norm_gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_same_bits_as_torchs(name, dtype):
    ours, theirs, given = case(name, dtype)
    found, expected = ours(*given), theirs(*given)
    grad = torch.randn_like(found)
    for a, b in zip(
        [found, *torch.autograd.grad(found, given, grad)],
        [expected, *torch.autograd.grad(expected, given, grad)],
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gelu_linear", "norm_gelu"])
def test_under_autocast_the_bits_are_those_of_both_one_after_the_other(name):
    ours, theirs, given = case(name)
    both = (lambda x, w, b: linear(F.gelu(x), w, b)) if name == "gelu_linear" else theirs
    x = given[0].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = ours(x, *given[1:]), both(x, *given[1:])
    assert "d2v_fast" in found.grad_fn.name()
    grad = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(y, [x, *given[1:]], grad) for y in (found, expected)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["gelu_linear", "norm_gelu"])
def test_keeps_one_large_tensor_where_torch_keeps_two(name):
    def large(function, given):
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.add(tensor.data_ptr()) if tensor.shape.numel() == given[0].numel() else None,
            lambda nothing: nothing,
        ):
            out = function(*given)
        assert out.requires_grad
        return len(kept)

    ours, theirs, given = case(name)
    assert (large(ours, given), large(theirs, given)) == (1, 2)


@pytest.mark.parametrize("name", ["gelu_linear", "norm_gelu"])
def test_what_wants_no_gradient_gets_none_and_a_second_gradient_is_right(name):
    ours, theirs, (x, weight, bias) = case(name, torch.float64, (2, 3, 6))
    ours(x, weight.detach(), bias.detach()).sum().backward()
    assert (x.grad is None, weight.grad, bias.grad) == (False, None, None)
    assert torch.autograd.gradgradcheck(ours, (x, weight, bias))
    with torch.no_grad(), torch_products():
        assert torch.equal(ours(x, weight, bias), theirs(x, weight, bias))


@pytest.mark.parametrize("name", ["gelu_linear", "norm_gelu"])
def test_is_a_well_behaved_operator_and_leaves_graphs_to_torch(name):
    ours, _, given = case(name, shape=(2, 3, 6))
    rest = (1e-5,) if name == "norm_gelu" else ()
    torch.library.opcheck(getattr(torch.ops.d2v_fast, name).default, (*given, *rest))
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), ours(*given))
