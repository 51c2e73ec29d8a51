"""The released arrangement of a data2vec 1.0 step in plain torch: the baseline of test_step.py.

Written from the description of the released code, fairseq's for speech and text and the BEiT-based one for images:
separate projections of queries, keys and values, tensors [T, B, C], transposes around every convolution, the outputs of
all layers kept for student and teacher, targets of all positions, Adam and the moving average parameter by parameter,
numbers for the log read in every step. Dropout, drop path and layer drop are off, and the one number format of the
parameters is that of everything. Names of parameters are those of the released checkpoints
(`d2v_fast.interop.fairseq`). python_tests/golden/test_reference_step.py compares losses, gradients and steps with the
released code's numbers.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from reference_models import KINDS
from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.models.config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """Of the optimizer."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip: float | None = None


class ReferenceStep:
    """Student, teacher, optimizer, and the step."""

    def __init__(self, config: ModelConfig, rule: Rule) -> None:
        self.config, self.rule = config, rule
        self.student: Any = KINDS[config.modality](config)
        self.teacher: Any = copy.deepcopy(self.averaged()).requires_grad_(False).eval()
        self.vision = config.modality == "vision"
        self.count = 0
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        if self.vision:
            spared: list[Tensor] = []
            decayed: list[Tensor] = []
            for name, p in self.student.named_parameters():
                (spared if p.ndim == 1 or name == "cls_token" else decayed).append(p)
            groups = [{"params": spared, "weight_decay": 0.0}, {"params": decayed}]
            self.adamw = torch.optim.AdamW(
                groups, lr=rule.lr, betas=rule.betas, eps=rule.eps, weight_decay=rule.weight_decay
            )

    def averaged(self) -> nn.Module:
        """What of the student the teacher follows."""
        return self.student.get_submodule(self.student.averaged)

    def targets(self, results: list[Any], mask: Tensor) -> Tensor:
        """[M, C]: made at all positions, then picked."""
        options = self.config.target
        if self.vision:
            layers = [F.layer_norm(x[:, 1:], x.shape[-1:]) for x in results[-options.top_k :]]
            mean = sum(layers) / len(layers)
            return F.layer_norm(mean, mean.shape[-1:])[mask]
        layers = [feature for _, feature in results[-options.top_k :]]
        if options.layer_norm == ("instance",):
            layers = [F.instance_norm(x.permute(1, 2, 0)).transpose(1, 2) for x in layers]
            return (sum(layers) / len(layers))[mask]
        layers = [F.layer_norm(x, x.shape[-1:]) for x in layers]
        return (sum(layers) / len(layers)).transpose(0, 1)[mask]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss as the released code returns it (images: the mean, else the sum), predictions and targets."""
        prediction, results = self.student(batch, self.teacher)
        with torch.no_grad():
            target = self.targets(results, batch.mask)
        beta, scale = self.config.loss.beta, self.config.loss.scale
        if self.vision:
            return F.smooth_l1_loss(prediction, target, beta=beta), prediction, target
        if beta == 0:
            losses = F.mse_loss(prediction, target, reduction="none").sum(-1)
        else:
            losses = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta).sum(-1)
        return losses.sum() * (1 / math.sqrt(prediction.shape[1]) if scale is None else scale), prediction, target

    def step(self, batch: Batch, decay: float = 0.999) -> float:
        """All of a step, the moving average included."""
        loss, prediction, target = self.loss(batch)
        value = loss.item()
        loss.backward()
        parameters = [p for p in self.student.parameters() if p.grad is not None]
        if self.vision:
            torch.nn.utils.clip_grad_norm_(parameters, self.rule.clip or math.inf, foreach=False)
            self.adamw.step()
            self.adamw.zero_grad()
        else:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.grad.mul_(1 / len(prediction))
                norm = torch.norm(torch.stack([torch.norm(p.grad) for p in parameters]))
                if self.rule.clip:
                    factor = (self.rule.clip / (norm + 1e-6)).clamp_(max=1)
                    for parameter in parameters:
                        parameter.grad.mul_(factor)
                float(norm)
                for values in (prediction, target):
                    float((values.var(0) + 1e-6).sqrt().mean())
                self._adam()
            self.student.zero_grad()
        self._average(decay)
        return value

    def _adam(self) -> None:
        """fairseq's Adam, parameter by parameter."""
        self.count += 1
        betas = self.rule.betas
        size = self.rule.lr * math.sqrt(1 - betas[1] ** self.count) / (1 - betas[0] ** self.count)
        for name, parameter in self.student.named_parameters():
            if parameter.grad is None:
                continue
            if name not in self.moments:
                self.moments[name] = (torch.zeros_like(parameter), torch.zeros_like(parameter))
            first, second = self.moments[name]
            first.mul_(betas[0]).add_(parameter.grad, alpha=1 - betas[0])
            second.mul_(betas[1]).addcmul_(parameter.grad, parameter.grad, value=1 - betas[1])
            divisor = second.sqrt().add_(self.rule.eps)
            parameter.add_(parameter, alpha=-self.rule.weight_decay * self.rule.lr)
            parameter.addcdiv_(first, divisor, value=-size)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        if self.vision:  # a copy of each tensor of the state, the index among them
            for own, other in zip(self.teacher.state_dict().values(), self.student.state_dict().values(), strict=True):
                own.copy_(decay * own + (1.0 - decay) * other)
            return
        source = self.averaged()
        state = self.teacher.state_dict()
        for name, parameter in source.named_parameters():
            if name.startswith(self.student.copied):
                state[name].copy_(parameter.clone())
            else:
                state[name].mul_(decay).add_(parameter, alpha=1 - decay)
        self.teacher.load_state_dict(state, strict=False)
