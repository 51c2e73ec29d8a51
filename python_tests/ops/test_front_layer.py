"""front_layer: the kernel beside torch's operators in float64, and where other operators serve."""

from __future__ import annotations

import pytest
import torch
from torch import library as torch_library

from d2v_fast import reference
from d2v_fast.ops import front_layer, norm_gelu, strided_convolution
from d2v_fast.ops.front_layer import WIDEST, _backward_any, _forward_any, earlier_front_layer

EPS = 1e-5


def given(dtype=torch.float32, signal=(2, 400, 1), channels=96, kernel=10):
    generator = torch.Generator().manual_seed(0)
    sizes = signal, (channels, signal[2], kernel), (channels,), (channels,)
    x, *parameters = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    return x, [part.requires_grad_() for part in parameters]


def torchs(x, weight, norm_weight, norm_bias, stride):
    return reference.front_layer(x, weight, norm_weight, norm_bias, stride, EPS)


def apart(x, weight, norm_weight, norm_bias, stride):
    return norm_gelu(strided_convolution(x, weight, stride), norm_weight, norm_bias, EPS)


def with_gradients(function, x, parameters, stride):
    y = function(x, *parameters, stride)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, parameters, grad)]


def equal(ours, others):
    return all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))


def is_kernel(y):
    return "front_layer" in y.grad_fn.name()


CASES = [
    # signal, channels, kernel, stride
    ((2, 400, 1), 96, 10, 5),  # as in wav2vec 2.0
    ((1, 9000, 1), 7, 3, 1),  # windows that overlap; several shares, the last one short
    ((3, 50, 3), 70, 4, 6),  # channels side by side, frames that no window has
    ((2, 10, 1), 513, 10, 5),  # one window each
    ((2, 21, 32), 1, 1, 2),  # the widest, of one frame
]


@pytest.mark.parametrize(("signal", "channels", "kernel", "stride"), CASES, ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_error_of_values_and_gradients_is_at_most_twice_that_of_torch(
    kind, signal, channels, kernel, stride, no_worse_than
):
    x, parameters = given(torch.float32, signal, channels, kernel)
    exact = with_gradients(torchs, x.double(), [part.detach().double().requires_grad_() for part in parameters], stride)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        assert is_kernel(front_layer(x, *parameters, stride))
        ours = with_gradients(front_layer, x, parameters, stride)
        plain = with_gradients(apart, x, parameters, stride)
    assert ours[0].dtype == plain[0].dtype == kind
    for one, other, right in zip(ours, plain, exact, strict=True):
        assert one.shape == other.shape == right.shape
        no_worse_than(one, other, right)


def test_gradients_in_float64():
    x, parameters = given(torch.float64, (2, 12, 2), 5, 3)
    assert is_kernel(front_layer(x, *parameters, 2))
    assert torch.autograd.gradcheck(lambda *parts: front_layer(x, *parts, 2), parameters)
    assert torch.autograd.gradgradcheck(lambda *parts: front_layer(x, *parts, 2), parameters)


def test_same_bits_for_any_number_of_threads_layout_and_mode(threads):
    x, parameters = given(signal=(3, 24_000, 1))
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(with_gradients(front_layer, x, parameters, 5))
    apart_ = x.expand(3, 24_000, 2).clone()[..., :1]
    assert not apart_.is_contiguous()
    results.append(with_gradients(front_layer, apart_, parameters, 5))
    for result in results[1:]:
        assert equal(result, results[0])
    with torch.no_grad():
        assert torch.equal(front_layer(x, *parameters, 5), results[0][0])


def test_keeps_the_signal_alone():
    x, parameters = given()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        y = front_layer(x, *parameters, 5)
    assert sum(part.numel() for part in kept) == x.numel() + sum(part.numel() for part in parameters)
    assert y.numel() > 10 * x.numel()


def test_other_operators_serve_the_rest():
    x, parameters = given()
    wide, many = given(signal=(2, 60, WIDEST // 3 + 1), kernel=3)
    halves = [part.detach().bfloat16().requires_grad_() for part in parameters]
    cases = [
        (x.clone().requires_grad_(), parameters),  # the kernel stops at the parameters
        (wide, many),
        (x.bfloat16(), halves),
    ]
    for signal, parts in cases:
        assert not is_kernel(front_layer(signal, *parts, 5))
        assert equal(with_gradients(front_layer, signal, parts, 5), with_gradients(apart, signal, parts, 5))
    with earlier_front_layer():  # for the bits of a run that has begun with them
        assert not is_kernel(front_layer(x, *parameters, 5))
        assert equal(with_gradients(front_layer, x, parameters, 5), with_gradients(apart, x, parameters, 5))
    gradient = torch.autograd.grad(front_layer(cases[0][0], *parameters, 5).sum(), cases[0][0])[0]
    assert gradient.shape == x.shape


def test_parameters_without_gradient_no_samples_and_wrong_shapes():
    x, (weight, norm_weight, norm_bias) = given()
    front_layer(x, weight, norm_weight.detach(), norm_bias.detach(), 5).sum().backward()
    assert (weight.grad is None, norm_weight.grad, norm_bias.grad) == (False, None, None)
    assert not front_layer(x, weight.detach(), norm_weight.detach(), norm_bias.detach(), 5).requires_grad
    y, *gradients = with_gradients(front_layer, x[:0], [weight, norm_weight, norm_bias], 5)
    assert y.shape == (0, 79, 96)
    assert not any(gradient.any() for gradient in gradients)
    for wrong in (x[:, :9], x[0], x.expand(2, 400, 2)):
        with pytest.raises(ValueError, match=r"frames|must be"):
            front_layer(wrong, weight, norm_weight, norm_bias, 5)
    with pytest.raises(ValueError, match="stride 0"):
        front_layer(x, weight, norm_weight, norm_bias, 0)


def test_is_a_well_behaved_operator_and_leaves_graphs_to_torch():
    x, parameters = given(signal=(2, 30, 1), channels=6)
    operators = torch.ops.d2v_fast
    for half in (False, True):
        torch_library.opcheck(operators.front_layer.default, (x, *parameters, 5, EPS, half))
        kind = torch.bfloat16 if half else torch.float32
        plain = [part.detach() for part in parameters]
        grad = torch.randn(2, 5, 6).to(kind)
        torch_library.opcheck(operators.front_layer_backward.default, (grad, x, *plain, 5, EPS))
    torch._dynamo.reset()
    compiled = torch.compile(front_layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, *parameters, 5), front_layer(x, *parameters, 5))


def test_torchs_operators_which_a_gpu_has():
    x, parameters = given()
    plain = [part.detach() for part in parameters]
    ours = with_gradients(front_layer, x, parameters, 5)
    grad = torch.randn(ours[0].shape, generator=torch.Generator().manual_seed(1))
    theirs = _forward_any(x, *plain, 5, EPS, False), *_backward_any(grad, x, *plain, 5, EPS)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert _forward_any(x, *plain, 5, EPS, True).dtype == torch.bfloat16
