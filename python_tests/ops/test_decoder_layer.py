"""decoder_layer: convolution, norm, GELU and residual, beside torch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops, reference

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
