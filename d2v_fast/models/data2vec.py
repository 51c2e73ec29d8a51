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
from d2v_fast.models.batches import check_batch, masks_of
from d2v_fast.models.config import ModelConfig
from d2v_fast.models.losses import Loss, total
from d2v_fast.models.student import Student
from d2v_fast.models.targets import counts_padding, targets_of
from d2v_fast.models.teacher import Pairs, teacher_of


@dataclass(frozen=True)
class Data2VecOutput:
    """One forward pass."""

    losses: dict[str, Loss]
    """"regression": the distance between predictions and targets, summed over the M masked positions. "class_token", if
    the configuration has it: that between the output at the extra tokens and the mean target, summed over the views."""

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


class Data2Vec(nn.Module):
    """Student, teacher, targets and loss.

    The teacher is an encoder of the same class. It shares with the student, as the very same parameters, what
    `config.teacher.averages` leaves out, and owns float32 copies of the rest, without gradient. It is always in eval
    mode, sees the whole input, and starts as an exact copy of the student.

    Attributes:
        config: of the model.
        looks_again: whether each forward pass looks for parameters that were replaced. Those of which a process keeps a
            part only (`training.distributed.shards`) come and go during a pass.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Build a student at random and its teacher.

        Raises:
            ValueError: if `config` contradicts itself.
        """
        super().__init__()
        self.config = config
        self.looks_again = True
        self.student = Student(config)
        self.teacher = teacher_of(self.student.encoder, config.teacher.averages)
        self._pairs = Pairs(config.teacher.averages)
        self.register_load_state_dict_post_hook(_after_loading)

    def train(self, mode: bool = True) -> Data2Vec:
        """Switch the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each loss of `forward` is divided by: known on the host before any forward pass.

        The trainer divides by the sum over all micro-batches of a step.
        """
        counts = {"regression": 0 if batch.rows is None else batch.rows.numel()}
        if self.config.loss.class_token > 0:
            counts["class_token"] = 0 if batch.mask is None else len(batch.mask)
        return counts

    def forward(
        self,
        batch: Batch,
        *,
        skipped: Sequence[bool] | Tensor | None = None,
        teacher_autocast: bool = True,
        noise: Tensor | None = None,
    ) -> Data2VecOutput:
        """Predict the teacher's features at the masked positions.

        Args:
            batch: B samples with V masked views each; for a model with a decoder also the kept positions.
            skipped: the student's blocks that layer drop skips (`skipped_blocks`), one bool each; None: none. A bool
                tensor [depth] on the model's device is for torch.compile, whose graph cannot branch: it computes the
                blocks and does not use them.
            teacher_autocast: False runs the teacher in float32 even under autocast.
            noise: [B * V * T - K, C], what the decoder finds at the positions that are not kept, in their order; None:
                it is drawn from torch's global generator.

        Returns:
            Losses, predictions, targets and local features.

        Raises:
            ValueError: if the parts of the batch do not fit each other or the model, or a model in training mode has
                layer drop and is not told which blocks to skip.
            TypeError: if one of them has the wrong dtype.
        """
        encoder = self.student.encoder
        mask, rows = masks_of(batch)
        if self.looks_again and not torch.compiler.is_compiling():
            self.averaged()  # parts of the network may have been loaded or replaced since the last step
        if skipped is None and self.training and self.config.transformer.layer_drop > 0:
            raise ValueError(
                f"transformer.layer_drop is {self.config.transformer.layer_drop}, but skipped is None: pass "
                "skipped=d2v_fast.models.skipped_blocks(config.transformer, seed, step), or set layer_drop to 0"
            )
        lengths = encoder.token_lengths(batch.lengths)
        if batch.masked_inputs is None:
            local = encoder.embed(batch.inputs)
        else:
            with torch.no_grad():  # text: the student's own input is another one, this is for teacher and monitors
                local = encoder.embed(batch.inputs)
        padding = self.config.encodes_kept and counts_padding(self.config)
        check_batch(batch, self.config, local, lengths, padding=padding)
        target = targets_of(self.teacher, self.config, batch, local.detach(), lengths, teacher_autocast)
        if self.config.encodes_kept:
            prediction = self.student.predict_hidden(batch, local, lengths, skipped, noise)
        else:
            seen = local if batch.masked_inputs is None else encoder.embed(batch.masked_inputs)
            if batch.masked_inputs is None and batch.views > 1:
                seen = seen.repeat_interleave(batch.views, 0)
            prediction = self.student.predict_masked(batch, seen, lengths, skipped)
        losses = {"regression": Loss(self._distance(prediction.rows, target.rows), rows.numel())}
        if prediction.classes is not None and target.classes is not None:
            distance = self._distance(prediction.classes, target.classes)
            losses["class_token"] = Loss(distance, len(mask), self.config.loss.class_token)
        return Data2VecOutput(losses, prediction.rows, target.rows, local.detach().flatten(0, 1))

    def _distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """[] float32: the sum over the rows of [M, C]."""
        options = self.config.loss
        return ops.masked_smooth_l1(
            prediction,
            target,
            beta=options.beta,
            scale=1 / math.sqrt(self.config.transformer.dim) if options.scale is None else options.scale,
            reduction="sum",
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
