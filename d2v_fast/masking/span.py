"""Spans for speech (wav2vec 2.0, section 3.1, with the published data2vec settings)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from d2v_fast import _C
from d2v_fast.masking.config import SpanMask
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
    return request.result(masked)
