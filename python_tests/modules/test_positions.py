"""Positions: a relative bias, fixed waves, convolutions, distances."""

import math

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.modules.positions import (
    Alibi,
    PositionConvolutions,
    RelativePositionBias,
    SinCosPositions,
    alibi_slopes,
    relative_index,
)


def test_relative_index_by_hand():
    # A grid of 1 x 2: offsets dx = -1, 0, 1 have rows 0, 1, 2; class to patch 3, patch to class 4, class itself 5.
    assert relative_index(1, 2).tolist() == [[5, 3, 3], [4, 1, 0], [4, 2, 1]]


def test_relative_index_depends_on_the_offset_alone():
    height, width = 3, 4
    index = relative_index(height, width)[1:, 1:]
    seen = {}
    for i in range(12):
        for j in range(12):
            offset = (i // width - j // width, i % width - j % width)
            assert seen.setdefault(offset, int(index[i, j])) == int(index[i, j])
    assert sorted(seen.values()) == list(range((2 * height - 1) * (2 * width - 1)))


def test_published_table_has_732_rows_and_no_index_in_the_state():
    bias = RelativePositionBias((14, 14), 12)
    assert {name: tuple(value.shape) for name, value in bias.state_dict().items()} == {"table": (732, 12)}
    assert bias().shape == (1, 12, 197, 197)
    torch.nn.init.normal_(bias.table)
    assert torch.equal(bias()[0, :, 0, 0], bias.table[731])
    assert torch.equal(bias()[0, 3, 0, 1:], bias.table[729, 3].expand(196))
    assert torch.equal(bias()[0, 3, 1:, 0], bias.table[730, 3].expand(196))


def test_sincos_positions_are_the_formula_row_by_row():
    positions = SinCosPositions((2, 3), 8)
    assert positions.state_dict() == {}
    added = positions(torch.zeros(1, 6, 8))[0]
    y, x = 1, 2  # the last patch
    expected = [wave(p * f) for p in (x, y) for wave in (math.sin, math.cos) for f in (1.0, 0.01)]
    torch.testing.assert_close(added[5], torch.tensor(expected), rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="multiple of 4"):
        SinCosPositions((2, 3), 6)


@pytest.mark.parametrize("kernel", [5, 4])
def test_positions_keep_the_length_and_agree_with_torch(kernel):
    torch.manual_seed(0)
    stack = PositionConvolutions(8, depth=2, kernel=kernel, groups=2)
    x = torch.randn(2, 13, 8)
    expected = x.transpose(1, 2)
    for conv in stack.convolutions:
        expected = F.conv1d(
            F.pad(expected, (kernel // 2, kernel // 2 - (kernel % 2 == 0))), conv.weight, conv.bias, groups=2
        )
        mean, var = expected.mean(1, keepdim=True), expected.var(1, unbiased=False, keepdim=True)
        expected = F.gelu((expected - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(stack(x), expected.transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: RelativePositionBias((2, 3), 2), lambda: SinCosPositions((2, 3), 8)])
def test_fixed_tables_are_there_after_the_meta_device(make):
    plain = make()
    with torch.device("meta"):
        other = make()
    assert all(buffer.is_meta for buffer in other.buffers())
    other = other.double().to_empty(device="cpu")
    for (name, ours), theirs in zip(other.named_buffers(), plain.double().buffers(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.dtype == theirs.dtype


def test_slopes_of_alibi():
    """As published: powers of 2^(-8 / heads), and for other numbers of heads every other one of twice as many."""
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    twelve = [*(2.0**-i for i in range(1, 9)), *(2.0 ** -(0.5 + i) for i in range(4))]
    assert alibi_slopes(12).tolist() == pytest.approx(twelve)
    assert alibi_slopes(16).tolist() == pytest.approx([2.0 ** (-0.5 * i) for i in range(1, 17)])
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_a_factor_of_alibi_below_zero_has_no_bias_and_no_gradient():
    alibi = Alibi(4)
    assert [name for name, _ in alibi.named_parameters()] == ["scale"]
    assert list(alibi.state_dict()) == ["scale"]
    with torch.no_grad():
        alibi.scale.copy_(torch.tensor([1.0, -0.5, 2.0, 0.3]))
    bias = alibi().dense(5)
    assert bias.shape == (1, 4, 5, 5)
    assert bias[0, 1].eq(0).all()
    assert bias[0, 2, 1, 4].item() == pytest.approx(-2 * 2.0**-6 * 3)
    assert torch.equal(bias, bias.transpose(2, 3))
    bias.sum().backward()
    assert alibi.scale.grad[1] == 0
    assert alibi.scale.grad[[0, 2, 3]].lt(0).all()
    meta = Alibi(4).to("meta").to_empty(device="cpu")
    assert torch.equal(meta.slopes, alibi.slopes)
