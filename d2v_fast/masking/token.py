"""Masking of tokens for text: BERT-style, in spans (as published for data2vec), or left out (data2vec 2.0)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2v_fast import _C, rng
from d2v_fast.masking.config import RandomMask, TokenMask
from d2v_fast.masking.masks import MaskRequest, Masks, SampleIds, at_least, natural, valid_lengths


def token_masks(
    config: TokenMask,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Sequence[int],
    seed: int,
    epoch: int,
    sample_ids: SampleIds,
    views: int = 1,
) -> Masks:
    """Selects tokens, or spans of them, and replaces most of them.

    A sequence of n tokens gets int(probability * n / length + u) spans, u uniform in [0, 1); their starts are drawn
    without replacement from all n positions, spans are cut at the end and may overlap. As in the published code every
    valid position may be selected, also those of the special tokens at the start and the end; padding never is. Each
    selected token stays with probability `keep`, becomes a random id with probability `random` (uniform over the
    vocabulary without `special_ids` and `mask_id`), and else becomes `mask_id`. `mask` and `rows` hold all selected
    positions, also those of tokens that stayed or became random.

    Args:
        config: Selected share, span length, and shares of kept and random tokens.
        tokens: int64 [B, T].
        lengths: int64 [B], valid tokens of each sequence; None when all are.
        mask_id: Id of the mask token.
        vocab_size: Ids are 0 ... vocab_size - 1.
        special_ids: Ids that are never drawn as a random token.
        seed: Of the run.
        epoch: The masks of an epoch differ from those of every other.
        sample_ids: Indices into the data source, integers [B]; a mask depends on its id, not on its place in the batch.
        views: V, masks for each sample.

    Returns:
        Masks of [B * V, T] with the tokens after masking.

    Raises:
        ValueError: An argument is out of range or of the wrong type.
    """
    if tokens.ndim != 2 or tokens.dtype != torch.int64 or not tokens.is_cpu:
        raise ValueError(
            f"tokens must be int64 [B, T] on the CPU, not {tokens.dtype} {list(tokens.shape)} on {tokens.device}"
        )
    if natural(mask_id, "mask_id") >= at_least(vocab_size, 1, "vocab_size"):
        raise ValueError(f"mask_id must be below vocab_size = {vocab_size}, not {mask_id}")
    excluded: list[int] = []  # from the random tokens, if there are any
    if config.random > 0.0:
        excluded = sorted({mask_id, *(int(i) for i in special_ids if 0 <= i < vocab_size)})
    if len(excluded) == vocab_size:
        raise ValueError(
            f"TokenMask.random is {config.random}, but all {vocab_size} ids of the vocabulary are special; set it to 0"
        )
    samples, width = tokens.shape
    valid, width = valid_lengths([width] * samples if lengths is None else lengths, width, sample_ids)
    if len(valid) != samples:
        raise ValueError(f"lengths has {len(valid)} entries for {samples} rows of tokens; pass one length for each row")
    tokens = tokens.contiguous()
    request = MaskRequest(seed, epoch, sample_ids, views, width)
    masked_tokens = torch.empty(samples * views, width, dtype=torch.int64, device="cpu")
    masked = _C.token_masks(
        *request.key,
        tokens.data_ptr(),
        valid,
        width,
        config.probability,
        config.length,
        config.keep,
        config.random,
        mask_id,
        vocab_size,
        excluded,
        request.mask.data_ptr(),
        masked_tokens.data_ptr(),
    )
    if config.random > 0.0 and config.random_from == "sequence":
        source = tokens.repeat_interleave(views, 0)
        replaced = request.mask & (masked_tokens != mask_id) & (masked_tokens != source)
        draws = rng.uniform(seed, "mask/token/sequence", epoch, request.ids, views * width).reshape(-1, width)
        places = (draws * np.repeat(valid, views)[:, None]).astype(np.int64)
        masked_tokens[replaced] = source.gather(1, torch.from_numpy(places))[replaced]
    return request.result(masked, masked_tokens, valid)


def random_masks(
    config: RandomMask,
    lengths: Tensor | Sequence[int],
    *,
    width: int | None = None,
    seed: int,
    epoch: int,
    sample_ids: SampleIds,
    views: int = 1,
) -> Masks:
    """Keeps exactly int(n * (1 - ratio)) random tokens of n, one at least, and masks all others (data2vec 2.0, 3.2).

    As in the released code every valid position may be masked, also those of the special tokens at the start and the
    end. That code masks padding too; here padding is neither masked nor kept.

    Args:
        config: Masked share.
        lengths: Valid tokens of each sample, integers [B].
        width: T, the padded number of tokens; by default the longest length.
        seed: Of the run.
        epoch: The masks of an epoch differ from those of every other.
        sample_ids: Indices into the data source, integers [B]; a mask depends on its id, not on its place in the batch.
        views: V, masks for each sample.

    Returns:
        Masks of [B * V, T].

    Raises:
        ValueError: An argument is out of range.
    """
    valid, width = valid_lengths(lengths, width, sample_ids)
    request = MaskRequest(seed, epoch, sample_ids, views, width)
    masked = _C.random_masks(*request.key, valid, width, 1.0 - config.ratio, request.mask.data_ptr())
    return request.result(masked, lengths=valid)
