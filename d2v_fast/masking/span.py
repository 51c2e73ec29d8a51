"""Spans for speech: of wav2vec 2.0, section 3.1, and of data2vec 2.0, a fixed number of frames."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from d2v_fast import _C
from d2v_fast.masking.config import FixedSpanMask, SpanMask
from d2v_fast.masking.masks import MaskRequest, Masks, SampleIds, valid_lengths


def span_masks(
    config: SpanMask,
    lengths: Tensor | Sequence[int],
    *,
    width: int | None = None,
    seed: int,
    epoch: int,
    sample_ids: SampleIds,
    views: int = 1,
) -> Masks:
    """Masks spans of `config.length` frames at random starts; spans may overlap.

    A sequence of n frames gets int(probability * n / length + u) spans, u uniform in [0, 1), and at least `min_spans`
    (at most n); their starts are drawn without replacement from the places where a whole span fits. A sequence with
    no more such places than spans gets one place more than spans, and spans are cut at its end. Padded frames are
    never masked.

    Two differences from the published code. The number of masked frames is not made equal over a batch, so a mask
    does not depend on the samples around it. And a sequence that would be wholly masked (shorter than about one span)
    gets one random frame unmasked, where the published code stops with an error; a sequence of one frame thus has no
    masked frame.

    Args:
        config: Probability, span length and least number of spans.
        lengths: Valid frames of each sample, integers [B].
        width: T, the padded number of frames; by default the longest length.
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
    masked = _C.span_masks(
        *request.key,
        valid,
        width,
        config.probability,
        config.length,
        config.min_spans,
        request.mask.data_ptr(),
    )
    return request.result(masked, lengths=valid)


def fixed_span_masks(
    config: FixedSpanMask,
    lengths: Tensor | Sequence[int],
    *,
    width: int | None = None,
    seed: int,
    epoch: int,
    sample_ids: SampleIds,
    views: int = 1,
) -> Masks:
    """Masks spans of `config.length` frames until exactly int(n * ratio) of n frames are masked (data2vec 2.0, 3.2).

    int(n * (ratio + adjust) / length) centres are drawn with replacement; a span begins length // 2 frames before its
    centre and is cut at both ends of the sequence. Then random frames are shown again, or masked as well, until the
    number is right: with the published settings about every tenth masked frame stands alone.

    The released code makes a mask for the whole clip and crops it, at another place than the clip, which shows the
    student frames that it has to predict. Here a mask is made for the frames that are used, so it has the right number.
    Padded frames are never masked.

    Args:
        config: Masked share, span length and the adjustment of the number of spans.
        lengths: Valid frames of each sample, integers [B].
        width: T, the padded number of frames; by default the longest length.
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
    centres = (config.ratio + config.adjust) / config.length  # for each frame
    masked = _C.fixed_span_masks(
        *request.key, valid, width, config.ratio, centres, config.length, request.mask.data_ptr()
    )
    return request.result(masked, lengths=valid)
