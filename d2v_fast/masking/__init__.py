"""Masks as pure functions of (seed, epoch, sample id, view), compiled: spans, blocks, inverse blocks, tokens."""

from d2v_fast.masking.block import block_masks, inverse_block_masks
from d2v_fast.masking.config import (
    BlockMask,
    FixedSpanMask,
    InverseBlockMask,
    MaskConfig,
    RandomMask,
    SpanMask,
    TokenMask,
)
from d2v_fast.masking.masks import Masks
from d2v_fast.masking.span import fixed_span_masks, span_masks
from d2v_fast.masking.token import random_masks, token_masks

__all__ = [
    "BlockMask",
    "FixedSpanMask",
    "InverseBlockMask",
    "MaskConfig",
    "Masks",
    "RandomMask",
    "SpanMask",
    "TokenMask",
    "block_masks",
    "fixed_span_masks",
    "inverse_block_masks",
    "random_masks",
    "span_masks",
    "token_masks",
]
