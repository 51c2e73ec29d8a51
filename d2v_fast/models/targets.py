"""What the student regresses: the teacher's last layers, normalised and averaged (paper, section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from d2v_fast import ops
from d2v_fast.batch import Batch
from d2v_fast.models.batches import masks_of
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.encoder import Encoder
from d2v_fast.models.seen import valid_tokens
from d2v_fast.ops.packing import to_device


class Targets(NamedTuple):
    """The targets of a batch, without gradient."""

    rows: Tensor
    """float32 [M, C], in the order of the batch's rows."""

    classes: Tensor | None = None
    """float32 [B * V, C], for each view the mean of its sample's targets over the whole sequence; None if there is no
    class-token loss."""


def counts_padding(config: ModelConfig) -> bool:
    """Whether the teacher computes padded positions, too: the released code counts them in statistics over time."""
    options = config.target
    return not options.exclude_padding and not {"instance", "batch"}.isdisjoint(options.layer_norm + options.final_norm)


@torch.no_grad()
def targets_of(
    teacher: Encoder, config: ModelConfig, batch: Batch, local: Tensor, lengths: Tensor | None, autocast: bool
) -> Targets:
    """One pass of the teacher over the whole samples, for all of their views.

    Args:
        teacher: in eval mode.
        config: of the pair.
        batch: with rows and mask.
        local: [B, T, C], the student's local features, which the teacher takes unless it has an embedding of its own.
        lengths: int64 [B], valid tokens.
        autocast: False runs the teacher in float32 even under autocast.
    """
    device, options, rows = local.device, config.target, masks_of(batch)[1]
    # No cache: a weight that is shared with the student would be kept there without its gradient.
    enabled = autocast and torch.is_autocast_enabled(device.type)
    with torch.autocast(device.type, enabled=enabled, cache_enabled=False):
        if config.teacher.averages == "all":
            local = teacher.embed(batch.inputs)
        elif not autocast:
            local = local.to(next(teacher.parameters()).dtype)
        features = teacher.forward_layers(
            local, lengths, last=options.top_k, feature=options.feature, padding=counts_padding(config)
        ).features
    excluded = lengths is not None and options.exclude_padding

    def normalised(rows: Tensor | None, views: int) -> Tensor:
        return ops.layer_targets(
            features,
            rows,
            layer_norm=options.layer_norm,
            final_norm=options.final_norm,
            lengths=to_device(lengths, device) if lengths is not None and excluded else None,
            views=views,  # the teacher ran once per sample
        )

    if config.loss.class_token == 0:
        return Targets(normalised(rows, batch.views))
    whole = normalised(None, 1)
    length = whole.shape[1]
    own = rows // (length * batch.views) * length + rows % length
    return Targets(whole.flatten(0, 1).index_select(0, own), _means(whole, lengths).repeat_interleave(batch.views, 0))


def _means(whole: Tensor, lengths: Tensor | None) -> Tensor:
    """[B, C]: the mean over time of [B, T, C], without padding."""
    if lengths is None:
        return whole.mean(1)
    valid = valid_tokens(lengths, whole).unsqueeze(2)
    return whole.where(valid, 0).sum(1) / to_device(lengths, whole.device).unsqueeze(1)
