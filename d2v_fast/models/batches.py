"""What a student-teacher pair asks of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.protocol import modality_of


def masks_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """The masked positions of a batch, as a mask and as rows.

    Raises:
        ValueError: it has none.
    """
    if batch.mask is None or batch.rows is None:
        raise ValueError("the batch has no mask and rows, which say what to predict: make them (d2v_fast.masking)")
    return batch.mask, batch.rows


def kept_of(batch: Batch) -> Tensor:
    """The kept positions of a batch.

    Raises:
        ValueError: it has none.
    """
    if batch.kept is None:
        raise ValueError(
            "the batch has no kept positions, which a model with a decoder encodes: make them "
            "(d2v_fast.masking.Masks.kept)"
        )
    return batch.kept


def check_batch(batch: Batch, config: ModelConfig, local: Tensor, lengths: Tensor | None, *, padding: bool) -> None:
    """Refuse a batch whose parts do not fit each other or the model.

    Args:
        batch: what is given.
        config: of the model.
        local: [B, T, C], its local features.
        lengths: int64 [B], those of the local features.
        padding: whether there are predictions and targets at padded positions, too.

    Raises:
        ValueError: shapes or values do not fit.
        TypeError: a dtype is wrong.
    """
    samples, length, _ = local.shape
    wanted = [samples * batch.views, length]
    mask, rows = masks_of(batch)
    if mask.dtype != torch.bool or rows.dtype != torch.int64:
        raise TypeError(f"batch.mask must be bool and batch.rows int64, got {mask.dtype} and {rows.dtype}")
    if list(mask.shape) != wanted:
        raise ValueError(
            f"batch.mask has shape {list(mask.shape)}, but {samples} samples with {batch.views} views of "
            f"{length} tokens need {wanted}: make the mask for the model's token count"
        )
    if rows.dim() != 1:
        raise ValueError(f"batch.rows must have one dimension, got shape {list(rows.shape)}")
    _check_masked_inputs(batch, config)
    if batch.lengths is not None and list(batch.lengths.shape) != [samples]:
        raise ValueError(f"batch.lengths has shape {list(batch.lengths.shape)}, expected {[samples]}")
    if not torch.compiler.is_compiling() and mask.device.type == "cpu":
        count = int(mask.sum())
        if count != rows.numel() or not bool(mask.flatten()[rows].all()):
            raise ValueError(f"batch.rows ({rows.numel()} positions) and batch.mask ({count} positions) differ")
        if lengths is not None and lengths.is_cpu and not padding:  # nothing to predict where padding is left out
            valid = torch.arange(length, device="cpu") < lengths.repeat_interleave(batch.views).unsqueeze(1)
            if bool((mask & ~valid).any()):
                raise ValueError("batch.mask masks padding: make masks for the valid lengths of the samples")


def _check_masked_inputs(batch: Batch, config: ModelConfig) -> None:
    wants = modality_of(config).masks_inputs and not config.encodes_kept
    if wants != (batch.masked_inputs is not None):
        needs = "needs masked_inputs" if wants else "takes no masked_inputs: it masks by batch.mask"
        raise ValueError(f"a {config.modality} model {needs}")
    if batch.masked_inputs is None:
        return
    masked, expected = list(batch.masked_inputs.shape), [len(batch.inputs) * batch.views, *batch.inputs.shape[1:]]
    if masked != expected:
        raise ValueError(f"batch.masked_inputs has shape {masked}, expected {expected}")
