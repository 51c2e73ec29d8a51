import numpy as np
import pytest
import torch

from d2v_fast.masking import BlockMask, InverseBlockMask, block_masks, inverse_block_masks


def make(function, config, grid, n=1000, **options):
    return function(config, grid, **({"seed": 1, "epoch": 0, "sample_ids": np.arange(n)} | options))


def test_blocks_of_the_published_setting():
    masked = make(block_masks, BlockMask(count=120), (14, 14), 4000).mask.sum(1)
    assert masked.max() == 120
    assert masked.min() >= 103
    assert masked.float().mean().item() == pytest.approx(119.5, abs=0.1)
    assert (masked == 120).float().mean().item() == pytest.approx(0.695, abs=0.025)


def test_a_first_block_has_the_area_and_aspect_asked_for():
    # Room for one block of exactly 16 patches: 4x4, 5x3 (15) and what else 16 * aspect rounds to.
    mask = make(block_masks, BlockMask(count=16, min_area=16, min_aspect=0.5), (14, 14)).mask.view(-1, 14, 14)
    height, width = mask.any(2).sum(1), mask.any(1).sum(1)
    single = mask.sum((1, 2)) == height * width  # one rectangle
    assert single.float().mean() > 0.4
    shapes = {tuple(s) for s in torch.stack([height, width], 1)[single].tolist()}
    assert shapes == {(3, 5), (4, 4), (5, 3)}


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (2, 2), (3, 5), (20, 4)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_count_is_an_upper_bound_on_any_grid(grid, share):
    count = int(share * grid[0] * grid[1])
    result = make(block_masks, BlockMask(count=count, min_area=2), grid, 300)
    assert result.mask.shape == (300, grid[0] * grid[1])
    assert result.mask.sum(1).max() <= count
    if min(grid) > 1 and count > 1:  # ten refusals at the start leave some of these masks empty, but not all
        assert result.mask.any()
    if min(grid) == 1:  # sides must be smaller than the grid's: nothing fits
        assert not result.mask.any()


@pytest.mark.parametrize(
    ("ratio", "adjust", "side", "kept"), [(0.8, 0.07, 14, 39), (0.75, 0.1, 14, 49), (0.75, 0.1, 16, 64)]
)
def test_inverse_blocks_keep_an_exact_number(ratio, adjust, side, kept):
    mask = make(inverse_block_masks, InverseBlockMask(ratio=ratio, block=3, adjust=adjust), (side, side)).mask
    assert ((~mask).sum(1) == kept).all()


def test_inverse_blocks_are_blocks():
    # A ratio and adjustment that give one centre, and as many kept patches as an uncut 3x3 square has: 9 of 81.
    mask = make(inverse_block_masks, InverseBlockMask(ratio=8 / 9, block=3, adjust=0.0), (9, 9), 2000).mask.view(
        -1, 9, 9
    )
    kept = ~mask
    square = (kept.any(2).sum(1) == 3) & (kept.any(1).sum(1) == 3)
    # Centres with a whole square: 7 * 7 of 81; cut squares are filled up with random patches.
    assert square.float().mean().item() == pytest.approx(49 / 81, abs=0.04)


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 15), (1.0, 0), (0.5, 7)])
def test_inverse_blocks_on_a_grid_that_is_not_square(ratio, kept):
    result = make(inverse_block_masks, InverseBlockMask(ratio=ratio, block=2), (3, 5))
    assert ((~result.mask).sum(1) == kept).all()


@pytest.mark.parametrize(
    ("function", "config", "grid", "message"),
    [
        (
            block_masks,
            BlockMask(count=197),
            (14, 14),
            "BlockMask.count is 197, more than the 196 patches of a 14 x 14 grid",
        ),
        (block_masks, BlockMask(), (0, 14), "grid height must be 1 or more, not 0"),
        (block_masks, BlockMask(), (14,), r"grid must be \(height, width\) in patches"),
        (inverse_block_masks, InverseBlockMask(), (14, 1.5), "grid width must be an integer, not 1.5"),
    ],
)
def test_errors_name_the_argument(function, config, grid, message):
    with pytest.raises(ValueError, match=message):
        make(function, config, grid)
