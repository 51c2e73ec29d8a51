import pytest
import torch
import torch.nn.functional as F

from d2v_fast.modules.embedding import Patches


def test_patches_agree_with_the_convolution():
    torch.manual_seed(0)
    patches = Patches((12, 12), (4, 4), 3, 8).double()
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    expected = F.conv2d(images, patches.patches.weight, patches.patches.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches(images), expected, rtol=0, atol=1e-12)
    assert patches.grid == (3, 3)


def test_patches_may_be_no_squares():
    torch.manual_seed(0)
    patches = Patches((6, 20), (3, 5), 1, 8).double()
    images = torch.randn(2, 1, 6, 20, dtype=torch.float64)
    expected = F.conv2d(images, patches.patches.weight, patches.patches.bias, stride=(3, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches(images), expected, rtol=0, atol=1e-12)
    assert patches.grid == (2, 4)


@pytest.mark.parametrize("size", [(30, 32), (32, 30)])
def test_patches_refuse_a_size_that_does_not_divide(size):
    with pytest.raises(ValueError, match=f"an image of {size[0]} x {size[1]} is no grid of patches of 4 x 4"):
        Patches(size, (4, 4), 3, 8)
