"""decoder_layer: convolution, norm, GELU and residual, beside torch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops, reference
from d2v_fast.ops.linear import LEAST

CASES = [  # size, channels, width of the result, groups, kernel
    ((7,), 8, 8, 2, 3),
    ((7,), 8, 12, 4, 4),
    ((5,), 6, 6, 1, 9),
    ((4, 5), 8, 8, 2, 3),
    ((4, 5), 8, 4, 4, 2),
    ((3, 3), 6, 6, 1, 5),
]


def make(size, channels, width, groups, kernel, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return randn(2, *size, channels), randn(width, channels // groups, *[kernel] * len(size)), randn(width)


def by_hand(x, weight, bias, groups, residual):
    """One place after the other."""
    kernel, first = weight.shape[2], weight.shape[2] // 2
    line = x if x.dim() == 4 else x.unsqueeze(1)
    taps = weight if x.dim() == 4 else weight.unsqueeze(2)
    vertical = first if x.dim() == 4 else 0
    padded = F.pad(line, (0, 0, first, first, vertical, vertical))
    own, out = weight.shape[1], weight.shape[0] // groups
    result = torch.zeros(*line.shape[:3], weight.shape[0], dtype=x.dtype)
    for row in range(line.shape[1]):
        for column in range(line.shape[2]):
            window = padded[:, row : row + taps.shape[2], column : column + kernel]
            for group in range(groups):
                part = window[..., group * own : (group + 1) * own]
                weights = taps[group * out : (group + 1) * out]
                result[:, row, column, group * out : (group + 1) * out] = torch.einsum("nyxc,dcyx->nd", part, weights)
    result = result + bias
    centred = result - result.mean(-1, keepdim=True)
    result = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    result = result * 0.5 * (1 + torch.erf(result / 2**0.5))
    result = result if x.dim() == 4 else result.squeeze(1)
    return result + x if residual and x.shape[-1] == result.shape[-1] else result


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_formulas(case, residual):
    x, weight, bias = make(*case)
    groups = case[3]
    ours = ops.decoder_layer(x, weight, bias, groups, residual)
    torch.testing.assert_close(ours, by_hand(x, weight, bias, groups, residual), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, reference.decoder_layer(x, weight, bias, groups, residual), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case):
    assert torch.autograd.gradcheck(lambda *x: ops.decoder_layer(*x, case[3], True), make(*case))


def test_refuses_what_does_not_fit():
    x, weight, bias = make((7,), 8, 12, 4, 3)
    for arguments, message in [
        ((x[0], weight, bias, 4), r"x is \[7, 8\]"),
        ((x, weight, bias[:2], 4), r"bias \[2\]"),
        ((x, weight, bias, 2), r"groups is 2; .* have 2 channels for each group, not 8 together"),
        ((x, weight, bias, 0), "groups is 0"),
        ((x.unsqueeze(1), weight.unsqueeze(2), bias, 4), "its kernel must be square"),
    ]:
        with pytest.raises(ValueError, match=message):
            ops.decoder_layer(*arguments, True)


@pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=str)
def test_error_is_at_most_twice_that_of_torch(dtype, case, no_worse_than):
    """Values; gradients go through what was rounded in between, and so have a tolerance."""
    given = make(*case, dtype=dtype)
    exactly = [x.detach().double().requires_grad_() for x in given]
    plainly = [x.detach().requires_grad_() for x in given]
    ours = ops.decoder_layer(*given, case[3], True)
    exact, torchs = (reference.decoder_layer(*x, case[3], True) for x in (exactly, plainly))
    no_worse_than(ours, torchs, exact.detach())
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    tolerance = 16 * torch.finfo(dtype).eps
    for one, other in zip(
        torch.autograd.grad(ours, given, gradient), torch.autograd.grad(exact, exactly, gradient.double()), strict=True
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("size", [(70,), (9, 8)], ids=str)
def test_same_bits_for_any_number_of_threads(dtype, size, threads):
    """A convolution of our own; that of torch, which serves wide groups, promises nothing of the kind."""
    x, weight, bias = make(size, 96, 96, 8, 3, dtype=dtype)
    gradient = torch.randn(2, *size, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            y = ops.decoder_layer(x, weight, bias, 8, True)
            results.append((y, *torch.autograd.grad(y, (x, weight, bias), gradient)))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=str)
def test_is_a_well_behaved_operator(case):
    x, weight, bias = make(*case, dtype=torch.float32)
    operators = torch.ops.d2v_fast
    torch.library.opcheck(operators.decoder_layer.default, (x, weight, bias, case[3], True))
    y, z = operators.decoder_layer(x, weight, bias, case[3], True)
    given = torch.randn_like(y), x.detach(), weight.detach(), z.detach(), case[3], True
    torch.library.opcheck(operators.decoder_layer_backward.default, given)


def test_compiles_without_graph_breaks():
    torch._dynamo.reset()
    given = make(*CASES[3], dtype=torch.float32)

    def run(x, weight, bias):
        return ops.decoder_layer(x, weight, bias, CASES[3][3], True)

    ours, theirs = torch.compile(run, fullgraph=True, backend="aot_eager")(*given), run(*given)
    assert torch.equal(ours, theirs)
    pairs = zip(torch.autograd.grad(ours.sum(), given), torch.autograd.grad(theirs.sum(), given), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_any_layout_gives_the_same_bits():
    x, weight, bias = make(*CASES[3], dtype=torch.float32)
    apart = x.detach().movedim(-1, 1).contiguous().movedim(1, -1)
    assert not apart.is_contiguous()
    wanted, ours = (ops.decoder_layer(y, weight, bias, CASES[3][3], True) for y in (x, apart))
    assert torch.equal(ours, wanted)


def test_autocast_chooses_the_format():
    given = make(*CASES[0], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.decoder_layer(*given, CASES[0][3], True)
    assert torch.equal(y, ops.decoder_layer(*(x.bfloat16() for x in given), CASES[0][3], True))
    assert all(one.dtype == torch.float32 for one in torch.autograd.grad(y.sum(), given))


def test_no_sample_and_other_formats():
    x, weight, bias = make(*CASES[0])
    empty = ops.decoder_layer(x[:0], weight, bias, CASES[0][3], True)
    assert empty.shape == (0, 7, 8)
    with pytest.raises(ValueError, match="convert them to one dtype"):
        ops.decoder_layer(x, weight.float(), bias, CASES[0][3], True)
    with pytest.raises(TypeError, match="int64"):
        ops.decoder_layer(x.long(), weight.long(), bias.long(), CASES[0][3], True)


@pytest.mark.parametrize("kernel", [4, 9])
def test_large_groups_agree_in_float32_whoever_computes_them(kernel):
    given = make((45,), 256, 256, 1, kernel, torch.float32)
    assert 2 * 45 * given[1].numel() >= LEAST
    results = []
    for function, dtype in ((ops.decoder_layer, torch.float32), (reference.decoder_layer, torch.float64)):
        own = [part.detach().to(dtype).requires_grad_() for part in given]
        y = function(*own, 1, True)
        results.append([y, *torch.autograd.grad(y.square().sum(), own)])
    for ours, right in zip(*results, strict=True):
        torch.testing.assert_close(ours, right.float(), rtol=0, atol=3e-6 * right.detach().abs().max().item())
