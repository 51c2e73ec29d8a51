"""The strided convolution beside torch's, forward and backward, and as an operator."""

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import reference
from d2v_fast.ops import strided_convolution
from d2v_fast.ops.linear import LEAST


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "length"),
    [
        (1, 10, 5, 43),
        (4, 3, 2, 17),
        (4, 3, 2, 18),
        (5, 2, 2, 9),
        (3, 4, 1, 11),
        (2, 7, 3, 31),
        (2, 2, 3, 12),
        (3, 5, 5, 5),
    ],
)
def test_agrees_with_conv1d_forward_and_backward(channels, kernel, stride, length):
    torch.manual_seed(0)
    x = torch.randn(2, length, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, channels, kernel, dtype=torch.float64, requires_grad=True)
    ours = strided_convolution(x, weight, stride)
    theirs = reference.strided_convolution(x, weight, stride)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    grad = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_is_a_well_behaved_operator():
    x = torch.randn(2, 17, 4, requires_grad=True)
    weight = torch.randn(6, 4, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.d2v_fast.strided_convolution.default, (x, weight, 2))


def test_takes_a_view_that_is_not_contiguous():
    wide = torch.randn(2, 20, 8)
    weight = torch.randn(6, 4, 3)
    x = wide[:, 1::2, :4]
    expected = F.conv1d(x.transpose(1, 2), weight, stride=2).transpose(1, 2)
    torch.testing.assert_close(strided_convolution(x, weight, 2), expected)


def test_autocast_computes_in_bfloat16():
    x, weight = torch.randn(1, 9, 4), torch.randn(6, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert strided_convolution(x, weight, 2).dtype == torch.bfloat16


def test_compiles_without_graph_breaks():
    torch._dynamo.reset()
    x, weight = torch.randn(2, 17, 4, requires_grad=True), torch.randn(6, 4, 3, requires_grad=True)
    compiled = torch.compile(strided_convolution, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(x, weight, 2), strided_convolution(x, weight, 2)
    assert torch.equal(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), (x, weight)),
        torch.autograd.grad(theirs.square().sum(), (x, weight)),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_refuses_what_does_not_fit():
    x, weight = torch.randn(2, 9, 4), torch.randn(6, 4, 3)
    for wrong, kernel, stride, message in [
        (x[0], weight, 2, r"x is \[9, 4\]"),
        (x[:, :, :2], weight, 2, r"x is \[2, 9, 2\], weight \[6, 4, 3\]"),
        (x, weight, 0, "stride 0"),
        (x[:, :2], weight, 2, "x has 2 frames, but a window takes 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            strided_convolution(wrong, kernel, stride)


@pytest.mark.parametrize(("kernel", "stride", "length"), [(3, 2, 302), (2, 2, 402), (4, 1, 103), (3, 5, 602)])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 0), (torch.bfloat16, 2**-8)], ids=str)
def test_large_ones_agree_whoever_computes_them(kernel, stride, length, dtype, relative):
    torch.manual_seed(0)
    x, weight = torch.randn(2, length, 192).to(dtype), torch.randn(256, 192, kernel).to(dtype)
    frames = (length - kernel) // stride + 1
    assert 2 * frames * weight.numel() >= LEAST
    grad = torch.randn(2, frames, 256).to(dtype)
    found, expected = [], []
    for part, own_dtype in ((found, dtype), (expected, torch.float64)):
        own = [tensor.to(own_dtype).requires_grad_() for tensor in (x, weight)]
        y = (strided_convolution if part is found else reference.strided_convolution)(*own, stride)
        part += [y, *torch.autograd.grad(y, own, grad.to(own_dtype))]
    for ours, right in zip(found, expected, strict=True):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours.double(), right, rtol=relative, atol=2e-6 * right.detach().abs().max().item())
