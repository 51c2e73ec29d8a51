"""Blocks of patches for images: BEiT's rectangles, and data2vec 2.0's inverse blocks."""

from __future__ import annotations

from d2v_fast import _C
from d2v_fast.masking.config import BlockMask, InverseBlockMask
from d2v_fast.masking.masks import MaskRequest, Masks, SampleIds, grid_size


def block_masks(
    config: BlockMask, grid: tuple[int, int], *, seed: int, epoch: int, sample_ids: SampleIds, views: int = 1
) -> Masks:
    """Masks rectangles until `config.count` patches are masked (BEiT, algorithm 1).

    While room = count - masked is left: the area of a rectangle is uniform between `min_area` and room (between room
    and `min_area` when less room is left), the logarithm of its aspect ratio is uniform between that of `min_aspect`
    and that of its inverse, its sides are rounded and must be smaller than the grid's, its place is uniform. It is
    taken if it masks at least one new patch and no more than room; after ten refusals in a row the mask is left as it
    is, so `count` is an upper bound (on a narrow grid, or one of very few patches, a mask may even stay empty).

    Args:
        config: Number of patches, and the smallest area and aspect ratio of a rectangle.
        grid: (height, width) in patches.
        seed: Of the run.
        epoch: The masks of an epoch differ from those of every other.
        sample_ids: Indices into the data source, integers [B]; a mask depends on its id, not on its place in the batch.
        views: V, masks for each sample.

    Returns:
        Masks of [B * V, height * width].

    Raises:
        ValueError: An argument is out of range, or more patches are to be masked than the grid has.
    """
    height, width = grid_size(grid)
    if config.count > height * width:
        raise ValueError(
            f"BlockMask.count is {config.count}, more than the {height * width} patches of a {height} x {width} grid; "
            "lower it (the published recipe masks about 60 %)"
        )
    request = MaskRequest(seed, epoch, sample_ids, views, height * width)
    masked = _C.block_masks(
        *request.key, height, width, config.count, config.min_area, config.min_aspect, request.mask.data_ptr()
    )
    return request.result(masked)


def inverse_block_masks(
    config: InverseBlockMask, grid: tuple[int, int], *, seed: int, epoch: int, sample_ids: SampleIds, views: int = 1
) -> Masks:
    """Keeps square blocks and masks all else, the same number of patches in every mask (data2vec 2.0, section 3.2).

    With k = 1 - ratio and n patches, int(n * (k + adjust) / block**2) centres are drawn with replacement; each keeps
    a square of `block` patches a side around it, cut at the border. Then random patches are masked again, or kept as
    well, until exactly int(n * k) are kept.

    Args:
        config: Masked share, side of a block and the adjustment of the number of blocks.
        grid: (height, width) in patches.
        seed: Of the run.
        epoch: The masks of an epoch differ from those of every other.
        sample_ids: Indices into the data source, integers [B]; a mask depends on its id, not on its place in the batch.
        views: V, masks for each sample.

    Returns:
        Masks of [B * V, height * width].

    Raises:
        ValueError: An argument is out of range.
    """
    height, width = grid_size(grid)
    kept_share = 1.0 - config.ratio
    patches = height * width
    kept = int(patches * kept_share)
    centres = int(patches * ((kept_share + config.adjust) / config.block**2))
    request = MaskRequest(seed, epoch, sample_ids, views, patches)
    masked = _C.inverse_block_masks(*request.key, height, width, kept, centres, config.block, request.mask.data_ptr())
    return request.result(masked)
