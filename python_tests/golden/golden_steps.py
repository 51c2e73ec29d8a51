"""The reference's optimizer steps, restated: gradient scaling, clipping, Adam as each code has it, EMA decay."""

from __future__ import annotations

import ast
import math
from typing import Any

import torch
from golden_case import Case
from torch import Tensor


class FairseqAdam:
    """Adam with decoupled weight decay whose epsilon is not bias-corrected (fairseq's plain torch version)."""

    def __init__(
        self,
        parameters: dict[str, Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        decays: dict[str, float],
    ) -> None:
        self.parameters, self.lr, self.betas, self.eps, self.decays = parameters, lr, betas, eps, decays
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.count = 0

    @torch.no_grad()
    def step(self) -> None:
        """One update of the parameters that have a gradient."""
        self.count += 1
        beta1, beta2 = self.betas
        size = self.lr * math.sqrt(1 - beta2**self.count) / (1 - beta1**self.count)
        for name, value in self.parameters.items():
            if value.grad is None:
                continue
            first, second = self.first[name], self.second[name]
            first.mul_(beta1).add_(value.grad, alpha=1 - beta1)
            second.mul_(beta2).addcmul_(value.grad, value.grad, value=1 - beta2)
            value.mul_(1 - self.lr * self.decays[name])
            value.addcdiv_(first, second.sqrt().add_(self.eps), value=-size)


class Protocol:
    """The steps after the backward pass, as the code that made the file takes them."""

    def __init__(self, case: Case, parameters: dict[str, Tensor]) -> None:
        self.case = case
        frozen = case.per_parameter(dict.fromkeys(case.meta.get("frozen", []), 1.0), 0.0)
        self.parameters = {name: value for name, value in parameters.items() if not frozen[name]}
        options: dict[str, Any] = case.meta["config"]["_opt"]
        betas = options["betas"]
        beta1, beta2 = ast.literal_eval(betas) if isinstance(betas, str) else betas
        self.clip = options["clip"]
        lr, eps = options["lr"], options["eps"]
        if not case.published_vision:
            spared = {}
            if options.get("wd_skip_1d"):  # of data2vec 2.0, where the released optimizers do not do what is meant
                spared = dict.fromkeys(filter(case.is_vector, case.names("student0")), 0.0)
            decays = case.per_parameter(spared, options["wd"])
            self.optimizer: Any = FairseqAdam(self.parameters, lr=lr, betas=(beta1, beta2), eps=eps, decays=decays)
            return
        groups = case.meta["weight_decay_groups"].values()
        decays = case.per_parameter(
            {name: group["weight_decay"] for group in groups for name in group["params"]}, options["wd"]
        )
        self.optimizer = torch.optim.AdamW(
            [{"params": [value], "weight_decay": decays[name]} for name, value in self.parameters.items()],
            lr=lr,
            betas=(beta1, beta2),
            eps=eps,
        )

    def step(self, rows: int) -> float:
        """Scale, clip and apply the gradients; returns their norm before clipping."""
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        if not self.case.published_vision:  # theirs is the sum over rows
            for gradient in gradients:
                gradient.div_(rows)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        if self.clip and self.clip > 0:
            factor = (self.clip / (norm + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient.mul_(factor)
        self.optimizer.step()
        return float(norm)

    def ema_decay(self, update: int) -> float:
        """Decay of the EMA after update `update`, counted from 1."""
        c = self.case.meta["config"]
        if self.case.published_vision:
            first, last, until, now = c["ema_decay_init"], c["ema_decay"], c["ema_start_at"], update - 1
        else:
            first, last, until, now = c["ema_decay"], c["ema_end_decay"], c["ema_anneal_end_step"], update
        return last if now >= until else last - (last - first) * (1 - now / until)
