"""The task of pretraining: the student regresses the teacher's features of the masked positions."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from d2v_fast import rng
from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.log import tell
from d2v_fast.models import skipped_blocks
from d2v_fast.models.data2vec import Data2VecOutput
from d2v_fast.ops.packing import to_device
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.learning import LearningWatch
from d2v_fast.run.monitors import CollapseWatch, effective_rank, explained, mean_std
from d2v_fast.run.weights import fill, new_model
from d2v_fast.training.loop import seed_generators
from d2v_fast.training.schedules import ema_decay, too_short
from d2v_fast.training.task import Losses, Metrics, Select
from d2v_fast.training.update import Averages

_A_RUN = 100
"""Steps from which on a run is expected to give features; shorter ones are trials, and are not told that they are."""


class PretrainingTask:
    """The method of data2vec as a `Task`: the teacher is the moving average, the losses are the model's.

    Attributes:
        config: Of the run.
        model: The pair being trained.
    """

    name = "pretrain"

    def __init__(self, config: Config) -> None:
        """Build the pair on the CPU: the same weights for every device.

        Raises:
            ConfigError: The section `model` contradicts itself.
        """
        self.config = config
        self.model = new_model(config)
        self._watch = CollapseWatch(config.monitor)
        self._learning = LearningWatch(config.monitor, config.steps)
        self._seen: tuple[int, Data2VecOutput] | None = None  # the step of the last forward pass, and what came out

    @property
    def network(self) -> nn.Module:
        """The pair."""
        return self.model

    def to(self, device: torch.device) -> None:
        """Move the model and put it into training mode, with the kernels and the memory that the run asks for."""
        precision = self.config.precision
        self.model.to(device).train()
        self.model.looks_again = not self.config.distributed.shard
        second = self.config.model.encodes_kept
        for encoder in (self.model.student.encoder, self.model.teacher):
            encoder.checkpoint_activations = precision.checkpoint_activations
            encoder.attention = precision.attention
            if precision.compile and second:  # how many tokens are kept changes from step to step
                encoder.compile_blocks()
        if second:
            self.model.student.decoder.checkpoint_activations = precision.checkpoint_activations
        elif precision.compile:
            self.model.compile()

    def parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Those of the student."""
        return self.model.student.named_parameters()

    def rates(self) -> Mapping[str, float]:
        """One learning rate for all."""
        return {}

    def held(self, step: int) -> Collection[str]:
        """Every step trains everything."""
        return ()

    def averages(self) -> Averages:
        """What the teacher owns, and the student's parameters that it follows."""
        return Averages(*self.model.averaged())

    def decay(self, step: int) -> float:
        """How much of the teacher stays."""
        return ema_decay(self.config.ema, step)

    def counts(self, batch: Batch) -> dict[str, int]:
        """For each loss what it is a mean over, such as masked positions."""
        return self.model.counts(batch)

    def losses(self, batch: Batch, step: int, micro_batch: int) -> Losses:
        """One forward pass; layer drop is the same in all micro-batches of a step."""
        self._seen = None  # free what the monitors did not ask for
        skipped: tuple[bool, ...] | Tensor | None
        skipped = skipped_blocks(self.config.model.transformer, self.config.seed, step)
        if skipped is not None and self.config.precision.compile and not self.config.model.encodes_kept:
            skipped = to_device(torch.tensor(skipped, device="cpu"), batch.inputs.device)
        output = self._forward(batch, skipped)
        self._seen = step, replace(output, losses={}, prediction=output.prediction.detach())
        return output.losses

    def _forward(self, batch: Batch, skipped: tuple[bool, ...] | Tensor | None = None) -> Data2VecOutput:
        output: Data2VecOutput = self.model(
            batch, skipped=skipped, teacher_autocast=not self.config.precision.teacher_float32
        )
        return output

    def monitors(self, step: int) -> Metrics:
        """Spread, ranks and what the predictions explain, of one micro-batch; one transfer from the device."""
        names = ("local_std", "pred_std", "target_std", "pred_rank", "target_rank", "explained")
        if self._seen is None or self._seen[0] != step:
            return dict.fromkeys((*names, "explained_smoothed"))
        output = self._seen[1]
        values: list[Tensor] = [mean_std(z).double() for z in (output.local, output.prediction, output.target)]
        values += [effective_rank(z) for z in (output.prediction, output.target)]
        values.append(explained(output.prediction, output.target))
        found: Metrics = dict(zip(names, torch.stack(values).tolist(), strict=True))
        return found | {"explained_smoothed": self._learning.smoothed(found["explained"])}

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Look at the lines of earlier starts again, about which all was said; say what is known beforehand."""
        self._learning = LearningWatch(self.config.monitor, self.config.steps)
        for line in lines:
            self._learning.read(line, line["step"])
        remark = too_short(self.config.ema, self.config.steps)
        if remark is not None and not lines and self.config.steps >= _A_RUN:
            tell(remark, logging.INFO)

    def judge(self, line: Mapping[str, Any], step: int) -> list[str]:
        """Warn of a collapse and of a run that learns nothing; explain a loss that rises while all is well."""
        warnings, notes = self._learning.read(line, step)
        for note in notes:
            tell(note, logging.INFO)
        return self._watch.judge(line, step) + warnings

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> Metrics:
        """The loss of the held-out part, without dropout and with the same masks and decoder noise each time.

        If it has several parts, each of them by its name, too: "validation_loss_NAME".
        """
        seed_generators(rng.derive(self.config.seed, "validation"), next(self.model.parameters()).device)
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        weights: dict[str, float] = {}
        self.model.eval()
        try:
            for batch in batches:
                for name, loss in self._forward(batch).losses.items():
                    sums[name] = sums.get(name, torch.zeros_like(loss.sum, dtype=torch.float64)) + loss.sum
                    counts[name] = counts.get(name, 0) + loss.count
                    weights[name] = loss.weight
        finally:
            self.model.train()
        if not any(counts.values()):
            return {"validation_loss": None}
        means = {name: float(total) / max(counts[name], 1) for name, total in sums.items()}
        parts = {f"validation_loss_{name}": mean for name, mean in means.items()} if len(means) > 1 else {}
        return {"validation_loss": sum(weights[name] * mean for name, mean in means.items()), **parts}

    def select(self) -> Select | None:
        """The newest weights are meant: losses of different steps have different targets."""
        return None

    def log(self, step: int) -> Metrics:
        """The teacher's schedule."""
        return {"ema_decay": self.decay(step)}

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Student and teacher."""
        return {"student": self.model.student.state_dict(), "teacher": self.model.teacher.state_dict()}

    def load(self, checkpoint: Checkpoint) -> None:
        """Put in what `state` gave."""
        fill(self.model.student, checkpoint, "student")
        fill(self.model.teacher, checkpoint, "teacher")
