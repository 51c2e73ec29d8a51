"""norm_gelu: the kernel beside torch's operators in float64, and those operators where they are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import library as torch_library

from d2v_fast import reference
from d2v_fast.ops import norm_gelu
from d2v_fast.ops.norm_gelu import earlier_norm_gelu

EPS = 1e-5
FORMATS = [torch.float32, torch.bfloat16]


def given(dtype=torch.float32, shape=(3, 20, 96), parameters=None):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator) for size in (shape, shape[-1:], shape[-1:]))
    parameters = parameters or dtype
    kinds = (3 * x + 1, dtype), (weight, parameters), (bias, parameters)
    return [part.to(kind).requires_grad_() for part, kind in kinds]


def torchs(x, weight, bias):
    return reference.norm_gelu(x, weight, bias, EPS)


def with_gradients(function, arguments):
    y = function(*arguments)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, arguments, grad)]


@pytest.mark.parametrize("parameters", [None, torch.float32], ids=["alike", "float32"])
@pytest.mark.parametrize("shape", [(3, 20, 96), (2, 300, 7), (2, 1, 513), (4, 1)], ids=str)
@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_error_of_values_and_gradients_is_at_most_twice_that_of_torch(kind, shape, parameters, no_worse_than):
    arguments = given(kind, shape, parameters)
    exact = with_gradients(torchs, [part.detach().double().requires_grad_() for part in arguments])
    for ours, plain, right in zip(
        with_gradients(norm_gelu, arguments), with_gradients(torchs, arguments), exact, strict=True
    ):
        no_worse_than(ours, plain, right)


def test_float64_and_earlier_runs_have_torchs_bits():
    for arguments in (given(torch.float64), given(torch.float32), given(torch.bfloat16)):
        with earlier_norm_gelu():
            ours = with_gradients(norm_gelu, arguments)
        plain = with_gradients(torchs, arguments)
        assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
        now = with_gradients(norm_gelu, arguments)
        same = all(torch.equal(one, other) for one, other in zip(now, plain, strict=True))
        assert same == (arguments[0].dtype == torch.float64)


@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_same_bits_for_any_number_of_threads_layout_and_mode(kind, threads):
    arguments = given(kind, (2, 700, 96))
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(with_gradients(norm_gelu, arguments))
    apart = arguments[0].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not apart.is_contiguous()
    results.append(with_gradients(norm_gelu, [apart, *arguments[1:]]))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
    with torch.no_grad():
        assert torch.equal(norm_gelu(*arguments), results[0][0])


def test_keeps_one_large_tensor_where_torch_keeps_two(large_kept):
    arguments = given()
    assert (large_kept(norm_gelu, arguments), large_kept(torchs, arguments)) == (1, 2)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_gradients_of_gradients_and_what_wants_none(kind):
    x, weight, bias = given(kind, (2, 3, 6))
    if kind == torch.float64:
        assert torch.autograd.gradcheck(norm_gelu, (x, weight, bias))
        assert torch.autograd.gradgradcheck(norm_gelu, (x, weight, bias))
    second = []
    for function in (norm_gelu, torchs):
        (first,) = torch.autograd.grad(function(x, weight, bias).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), (x, weight)))
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    norm_gelu(x, weight.detach(), bias.detach()).sum().backward()
    assert (x.grad is None, weight.grad, bias.grad) == (False, None, None)


def test_no_rows_and_autocast():
    x, weight, bias = given()
    y, of_x, of_weight, of_bias = with_gradients(norm_gelu, [x[:0].detach().requires_grad_(), weight, bias])
    assert y.shape == of_x.shape == (0, 20, 96)
    assert not of_weight.any()
    assert not of_bias.any()
    half = x.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm_gelu(half, weight, bias), norm_gelu(half, weight, bias))
        assert norm_gelu(half, weight, bias).dtype == torch.bfloat16
        assert torch.equal(norm_gelu(x, weight, bias), torchs(x, weight, bias))


def test_is_a_well_behaved_operator_and_leaves_graphs_to_torch():
    x, weight, bias = given(shape=(2, 3, 6))
    operators = torch.ops.d2v_fast
    torch_library.opcheck(operators.norm_gelu.default, (x, weight, bias, EPS, True))
    plain = [part.detach() for part in (x, weight, bias)]
    nothing = torch.zeros(0)
    torch_library.opcheck(operators.norm_gelu_backward.default, (torch.randn_like(x), *plain, nothing, EPS))
    torch._dynamo.reset()
    compiled = torch.compile(norm_gelu, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, bias), norm_gelu(x, weight, bias))
