"""Masks as pure functions of (seed, epoch, sample id, view), compiled: spans, blocks, inverse blocks and tokens."""

from d2v_fast.masking.block import block_masks, inverse_block_masks
from d2v_fast.masking.config import BlockMask, InverseBlockMask, MaskConfig, SpanMask, TokenMask
from d2v_fast.masking.masks import Masks
from d2v_fast.masking.span import span_masks
from d2v_fast.masking.token import token_masks

__all__ = [
    "BlockMask",
    "InverseBlockMask",
    "MaskConfig",
    "Masks",
    "SpanMask",
    "TokenMask",
    "block_masks",
    "inverse_block_masks",
    "span_masks",
    "token_masks",
]
