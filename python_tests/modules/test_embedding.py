import math

import pytest
import torch
import torch.nn.functional as F

from d2v_fast.modules.embedding import Patches, Tokens
from d2v_fast.modules.head import RegressionHead
from d2v_fast.modules.positions import RelativePositionBias, SinCosPositions, relative_index


def test_patches_agree_with_the_convolution():
    torch.manual_seed(0)
    patches = Patches(12, 4, 3, 8).double()
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    expected = F.conv2d(images, patches.patches.weight, patches.patches.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches(images), expected, rtol=0, atol=1e-12)
    assert patches.grid == (3, 3)


def test_patches_refuse_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match=r"image_size 30 .*patch_size 4"):
        Patches(30, 4, 3, 8)


def test_positions_are_counted_over_what_is_not_padding():
    torch.manual_seed(0)
    embed = Tokens(20, 6, pad_id=1, dim=4, norm_eps=1e-5).double()
    tokens = torch.tensor([[5, 7, 1, 9, 1, 1]])
    places = torch.tensor([[2, 3, 1, 4, 1, 1]])
    expected = embed.norm(embed.tokens.weight[tokens] + embed.positions.weight[places])
    torch.testing.assert_close(embed(tokens), expected, rtol=0, atol=0)
    assert embed.positions.weight.shape == (8, 4)
    embed(tokens).square().sum().backward()
    assert embed.tokens.weight.grad[1].eq(0).all()
    assert embed.positions.weight.grad[1].eq(0).all()
    assert embed.positions.weight.grad[2].ne(0).any()


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


def test_head_widths_and_activations():
    torch.manual_seed(0)
    assert [tuple(p.shape) for p in RegressionHead(4, 3).parameters()] == [(8, 4), (8,), (8, 8), (8,), (4, 8), (4,)]
    head = RegressionHead(4, 2)
    x = torch.randn(5, 4)
    torch.testing.assert_close(head(x), head.layers[1](F.gelu(head.layers[0](x))))
    single = RegressionHead(4, 1)
    torch.testing.assert_close(single(x), single.layers[0](x))
    with pytest.raises(ValueError, match=r"head.layers must be at least 1, got 0"):
        RegressionHead(4, 0)
