"""Vision: what must fit between the sections of a configuration."""

from __future__ import annotations

import math
from typing import cast

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import BlockMask, InverseBlockMask
from d2v_fast.modalities.patches import check_block, check_kept
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs


def check(config: Config) -> None:
    """See `Modality.check`.

    Raises:
        ConfigError: A mask cannot be made on the model's grid of patches, mean or deviation are not one per channel,
            or the width does not fit the positions.
    """
    embedding, inputs = cast(VisionEmbedding, config.model.embedding), cast(VisionInputs, config.inputs)
    for name, values in (("mean", inputs.mean), ("std", inputs.std)):
        if len(values) != embedding.channels:
            raise ConfigError(
                f"inputs.{name} has {len(values)} values, but model.embedding.channels is {embedding.channels}"
            )
    if embedding.positions == "sincos" and config.model.transformer.dim % 4:
        raise ConfigError(
            f"model.transformer.dim is {config.model.transformer.dim}, but with sincos positions it must be a multiple "
            "of 4"
        )
    if embedding.positions == "relative" and config.model.transformer.extra_tokens:
        raise ConfigError(
            f"model.transformer.extra_tokens is {config.model.transformer.extra_tokens}, but relative positions know "
            "one class token only: set model.embedding.positions to sincos"
        )
    side = embedding.image_size // embedding.patch_size
    if isinstance(config.mask, BlockMask):
        _check_blocks(config.mask, side, config.model.encodes_kept)
    elif isinstance(config.mask, InverseBlockMask):
        _check_inverse_blocks(config.mask, side)


def _check_blocks(mask: BlockMask, side: int, encodes_kept: bool) -> None:
    patches = side * side
    if not 1 <= mask.count <= patches:
        raise ConfigError(
            f"mask.count is {mask.count}, but it must be at least 1 and at most the model's {patches} patches "
            f"({side} x {side}); the published recipe masks about 60 %"
        )
    if encodes_kept and mask.count == patches:
        raise ConfigError(
            f"mask.count is {mask.count}, all {patches} patches of the model: nothing would be kept, which is all that "
            "the student of data2vec 2.0 encodes; lower mask.count, or use an InverseBlockMask"
        )
    if not _some_block_fits(mask, side):
        raise ConfigError(
            f"mask: no block of min_area {mask.min_area} and min_aspect {mask.min_aspect} fits into count {mask.count} "
            f"on a grid of {side} x {side} patches: lower mask.min_area, or choose smaller patches"
        )


def _some_block_fits(mask: BlockMask, side: int) -> bool:
    """Whether the first block of a mask can ever be taken (`masking.block_masks` says how blocks are drawn)."""
    least, most = sorted((mask.min_area, mask.count))
    low, high = math.sqrt(mask.min_aspect), math.sqrt(1 / mask.min_aspect)
    for height in range(1, side):
        for width in range(1, side):
            if height * width > mask.count:
                continue
            # What lies within 0.5 of a side is rounded to it; height = root * slope and width = root / slope, with
            # root^2 the area and slope^2 the aspect.
            for slope in (low, *(low + (high - low) * i / 64 for i in range(1, 64)), high):
                smallest = max((height - 0.5) / slope, (width - 0.5) * slope)
                largest = min((height + 0.5) / slope, (width + 0.5) * slope)
                if max(smallest, math.sqrt(least)) < min(largest, math.sqrt(most)) or (
                    least == most and smallest <= math.sqrt(least) <= largest
                ):
                    return True
    return False


def _check_inverse_blocks(mask: InverseBlockMask, side: int) -> None:
    check_kept(mask, side * side, "of the model")
    check_block(mask, (side, side), "of the model")
