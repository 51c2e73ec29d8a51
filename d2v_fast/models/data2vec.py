"""The student-teacher pair: the student sees a masked input and regresses what the teacher makes of the whole one.

The maths of the method and nothing else: no optimizer, no schedule, no logging (paper, sections 3.2 to 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.batch import Batch
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.losses import Loss, total
from d2v_fast.models.protocol import build_encoder, initialise_head, modality_of
from d2v_fast.models.teacher import Pairs, teacher_of
from d2v_fast.modules.head import RegressionHead
from d2v_fast.ops.packing import to_device


@dataclass(frozen=True)
class Data2VecOutput:
    """One forward pass."""

    losses: dict[str, Loss]
    """"regression": the distance between predictions and targets, summed over the M masked positions."""

    prediction: Tensor
    """[M, C], in the order of the batch's rows."""

    target: Tensor
    """float32 [M, C], without gradient."""

    local: Tensor
    """[B * T, C], the student's local features of the unmasked input, detached: for the collapse monitors."""

    @property
    def loss(self) -> Tensor:
        """[] float32: the weighted sum of the losses' means over this batch."""
        return total(self.losses)


class Student(nn.Module):
    """An encoder and its regression head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config)
        self.head = RegressionHead(config.transformer.dim, config.head.layers)
        initialise_head(self.head, config)


class Data2Vec(nn.Module):
    """Student, teacher, targets and loss.

    The teacher is an encoder of the same class. It shares with the student, as the very same parameters, what
    `config.teacher.averages` leaves out, and owns float32 copies of the rest, without gradient. It is always in eval
    mode, sees the whole input, and starts as an exact copy of the student.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build a student at random and its teacher.

        Raises:
            ValueError: if `config` contradicts itself.
        """
        super().__init__()
        self.config = config
        self.student = Student(config)
        self.teacher = teacher_of(self.student.encoder, config.teacher.averages)
        self._pairs = Pairs(config.teacher.averages)
        self.register_load_state_dict_post_hook(_after_loading)

    def train(self, mode: bool = True) -> Data2Vec:
        """Switch the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @staticmethod
    def counts(batch: Batch) -> dict[str, int]:
        """What each loss of `forward` is divided by: known on the host before any forward pass.

        The trainer divides by the sum over all micro-batches of a step.
        """
        return {"regression": 0 if batch.rows is None else batch.rows.numel()}

    def forward(
        self, batch: Batch, *, skipped: Sequence[bool] | Tensor | None = None, teacher_autocast: bool = True
    ) -> Data2VecOutput:
        """Predict the teacher's features at the masked positions.

        Args:
            batch: B samples with V masked views each.
            skipped: the student's blocks that layer drop skips (`skipped_blocks`), one bool each; None: none. A bool
                tensor [depth] on the model's device is for torch.compile, whose graph cannot branch: it computes the
                blocks and does not use them.
            teacher_autocast: False runs the teacher in float32 even under autocast.

        Returns:
            Losses, predictions, targets and local features.

        Raises:
            ValueError: if the parts of the batch do not fit each other or the model, or a model in training mode has
                layer drop and is not told which blocks to skip.
            TypeError: if one of them has the wrong dtype.
        """
        encoder = self.student.encoder
        mask, rows = masks_of(batch)
        if not torch.compiler.is_compiling():
            self.averaged()  # parts of the network may have been loaded or replaced since the last step
        if skipped is None and self.training and self.config.transformer.layer_drop > 0:
            raise ValueError(
                f"transformer.layer_drop is {self.config.transformer.layer_drop}, but skipped is None: pass "
                "skipped=d2v_fast.models.skipped_blocks(config.transformer, seed, step), or set layer_drop to 0"
            )
        lengths = encoder.token_lengths(batch.lengths)
        if batch.masked_inputs is None:
            local = encoder.embed(batch.inputs)
            seen = local if batch.views == 1 else local.repeat_interleave(batch.views, 0)
        else:
            with torch.no_grad():  # text: the student's own input is another one, this is for teacher and monitors
                local = encoder.embed(batch.inputs)
            seen = encoder.embed(batch.masked_inputs)
        _check(batch, self.config, local, lengths)
        target = self._target(batch, local.detach(), lengths, teacher_autocast)
        masked = encoder.forward_layers(
            seen,
            None if lengths is None else lengths.repeat_interleave(batch.views),
            mask=mask if batch.masked_inputs is None else None,
            rows=rows,
            skipped=skipped,
        )
        prediction = self.student.head(masked.output)
        scale = self.config.loss.scale
        loss = ops.masked_smooth_l1(
            prediction,
            target,
            beta=self.config.loss.beta,
            scale=1 / math.sqrt(self.config.transformer.dim) if scale is None else scale,
            reduction="sum",
        )
        losses = {"regression": Loss(loss, rows.numel())}
        return Data2VecOutput(losses, prediction, target, local.detach().flatten(0, 1))

    @torch.no_grad()
    def _target(self, batch: Batch, local: Tensor, lengths: Tensor | None, autocast: bool) -> Tensor:
        """float32 [M, C]: the teacher's last K layers, normalised, averaged, normalised again, at the masked rows."""
        device = local.device.type
        options, rows = self.config.target, masks_of(batch)[1]
        # No cache: a weight that is shared with the student would be kept there without its gradient.
        enabled = autocast and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=enabled, cache_enabled=False):
            if self.config.teacher.averages == "all":
                local = self.teacher.embed(batch.inputs)
            elif not autocast:
                local = local.to(next(self.teacher.parameters()).dtype)
            # The released code counts padded frames in the statistics over time, so they are computed then.
            counted = not options.exclude_padding and not {"instance", "batch"}.isdisjoint(
                options.layer_norm + options.final_norm
            )
            features = self.teacher.forward_layers(
                local, lengths, last=options.top_k, feature=options.feature, padding=counted
            ).features
        return ops.layer_targets(
            features,
            rows,
            layer_norm=options.layer_norm,
            final_norm=options.final_norm,
            lengths=to_device(lengths, local.device) if lengths is not None and options.exclude_padding else None,
            views=batch.views,  # the teacher ran once per sample
        )

    @torch.no_grad()
    def update_teacher(self, decay: float | Tensor) -> None:
        """Move the teacher towards the student: teacher = decay * teacher + (1 - decay) * student.

        Call it once per optimizer step, after the step (decay 1 for a step that was skipped).

        Args:
            decay: a float, or a 0-dim float64 tensor.
        """
        teacher, student = self.averaged()
        ops.ema_update_(teacher, student, decay)

    @torch.no_grad()
    def reset_teacher(self) -> None:
        """Make the teacher an exact copy of the student again, for example after loading the student's weights."""
        teacher, student = self.averaged()
        for own, source in zip(teacher, student, strict=True):
            own.copy_(source)

    def averaged(self) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's own parameters and those of the student that they follow."""
        return self._pairs.match(self.teacher, self.student.encoder)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Data2Vec:
        """Move or convert everything; some conversions make new parameters (`to_empty`)."""
        super()._apply(fn, recurse)
        self.averaged()
        return self


def _after_loading(model: Data2Vec, incompatible: object) -> None:
    """`load_state_dict(assign=True)` makes new parameters."""
    model.averaged()


def masks_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """The masked positions of a batch, as a mask and as rows.

    Raises:
        ValueError: it has none.
    """
    if batch.mask is None or batch.rows is None:
        raise ValueError("the batch has no mask and rows, which say what to predict: make them (d2v_fast.masking)")
    return batch.mask, batch.rows


def _check(batch: Batch, config: ModelConfig, local: Tensor, lengths: Tensor | None) -> None:
    """Refuse a batch whose parts do not fit; `lengths` are those of the local features."""
    samples, length, _ = local.shape
    wanted = [samples * batch.views, length]
    mask, rows = masks_of(batch)
    text = modality_of(config).masks_inputs
    if mask.dtype != torch.bool or rows.dtype != torch.int64:
        raise TypeError(f"batch.mask must be bool and batch.rows int64, got {mask.dtype} and {rows.dtype}")
    if list(mask.shape) != wanted:
        raise ValueError(
            f"batch.mask has shape {list(mask.shape)}, but {samples} samples with {batch.views} views of "
            f"{length} tokens need {wanted}: make the mask for the model's token count"
        )
    if rows.dim() != 1:
        raise ValueError(f"batch.rows must have one dimension, got shape {list(rows.shape)}")
    if text != (batch.masked_inputs is not None):
        needs = "needs masked_inputs" if text else "takes no masked_inputs: it masks by batch.mask"
        raise ValueError(f"a {config.modality} model {needs}")
    if batch.masked_inputs is not None:
        masked, expected = list(batch.masked_inputs.shape), [samples * batch.views, *batch.inputs.shape[1:]]
        if masked != expected:
            raise ValueError(f"batch.masked_inputs has shape {masked}, expected {expected}")
    if batch.lengths is not None and list(batch.lengths.shape) != [samples]:
        raise ValueError(f"batch.lengths has shape {list(batch.lengths.shape)}, expected {[samples]}")
    if not torch.compiler.is_compiling() and mask.device.type == "cpu":
        count = int(mask.sum())
        if count != rows.numel() or not bool(mask.flatten()[rows].all()):
            raise ValueError(f"batch.rows ({rows.numel()} positions) and batch.mask ({count} positions) differ")
        if lengths is not None and lengths.is_cpu:  # blocks that leave the padding out have nothing to predict there
            valid = torch.arange(length, device="cpu") < lengths.repeat_interleave(batch.views).unsqueeze(1)
            if bool((mask & ~valid).any()):
                raise ValueError("batch.mask masks padding: make masks for the valid lengths of the samples")
