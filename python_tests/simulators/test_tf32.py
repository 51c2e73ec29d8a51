"""The emulation of TF32: what it rounds, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from tf32 import Tf32, round_to_tf32
from torch.nn.functional import conv1d, scaled_dot_product_attention
from torch.nn.functional import linear as apply_linear


def test_rounding_keeps_ten_bits():
    one = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 3.4028235e38, torch.inf, -torch.inf, 0.0])
    expected = [1.0, 1 + 2**-10, 1 + 2**-10, 1.0, -1 - 2**-10, torch.inf, torch.inf, -torch.inf, 0.0]
    assert round_to_tf32(one).tolist() == expected
    assert round_to_tf32(torch.tensor([torch.nan])).isnan().all()
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    error = (round_to_tf32(x) - x).abs() / x.abs()
    assert 2**-11 * 0.95 < error.max() <= 2**-11


@pytest.mark.parametrize("operation", [torch.matmul, apply_linear, lambda x, w: conv1d(x[None], w[:, :, None])])
def test_products_have_rounded_operands_and_float32_sums(operation):
    x, w = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    with Tf32() as mode:
        ours = operation(x, w)
    assert mode.products == 1
    torch.testing.assert_close(ours, operation(round_to_tf32(x), round_to_tf32(w)), rtol=0, atol=0)
    assert not torch.equal(ours, operation(x, w))


def test_what_is_added_and_other_formats_are_left_alone():
    x, w = torch.randn(2, 8, 8)
    bias = torch.full((8,), 1 + 2**-20)
    with Tf32() as mode:
        assert torch.equal(torch.addmm(bias, torch.zeros(8, 8), w), bias.expand(8, 8))
        assert torch.equal(x.double() @ w.double(), (x.double() @ w.double()).clone())
        assert mode.products == 1
        with pytest.raises(NotImplementedError, match=r"SDPBackend\.MATH"):
            scaled_dot_product_attention(x[None, None], x[None, None], x[None, None])
