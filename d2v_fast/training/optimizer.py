"""AdamW with clipping, unscaling and the skipping of non-finite steps inside the fused kernel: no host sync."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from d2v_fast.config import OptimConfig
from d2v_fast.errors import RunError


class Optimizer:
    """torch's fused AdamW over named parameters.

    The fused kernel divides the gradients by `grad_scale` and does nothing at all when `found_inf` is 1, on the CPU and
    on a GPU. So `grad_scale` = loss scale * max(1, norm / clip_norm) unscales and clips in the same pass over memory.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> None:
        self.config = config
        self.named = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.parameters = list(self.named.values())
        decayed = [p for name, p in self.named.items() if config.decay_vectors or not is_vector(name, p)]
        chosen = {id(p) for p in decayed}
        others = [p for p in self.parameters if id(p) not in chosen]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, lr: float, loss: Tensor, loss_scale: Tensor) -> tuple[Tensor, Tensor]:
        """One update from the gradients, which are then gone.

        Args:
            lr: Learning rate of this step.
            loss: float32 [], the loss of the step; a step whose loss or gradient is not finite changes nothing.
            loss_scale: float32 [], the factor that is in the gradients.

        Returns:
            The gradient's norm before clipping, float32 [], and found_inf, float32 []: 1 if the step was skipped.
        """
        for parameter in self.parameters:
            if parameter.grad is None:  # a dropped layer: its momentum and weight decay go on, as with a flat gradient
                parameter.grad = torch.zeros_like(parameter)
        scaled_norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None], foreach=True
        )
        norm = scaled_norm / loss_scale
        found_inf = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
        scale = loss_scale
        if self.config.clip_norm is not None:
            scale = scale * torch.clamp(norm / self.config.clip_norm, min=1.0)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.grad_scale = scale  # type: ignore[attr-defined]
        self.adamw.found_inf = found_inf  # type: ignore[attr-defined]
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm, found_inf

    def state(self) -> dict[str, Tensor]:
        """The moments and the step count of each parameter, as "exp_avg.NAME", "exp_avg_sq.NAME" and "step.NAME"."""
        result = {}
        for name, parameter in self.named.items():
            for key, value in self.adamw.state[parameter].items():
                result[f"{key}.{name}"] = value
        return result

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            RunError: The state belongs to another model.
        """
        for name, parameter in self.named.items():
            values = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state.get(f"{key}.{name}")
                if value is None or (key != "step" and value.shape != parameter.shape):
                    raise RunError(f"the checkpoint's optimizer has no {key} for {name}: it belongs to another model")
                values[key] = value.to(parameter.device, copy=True)  # not the mapped file
            self.adamw.state[parameter] = values


def is_vector(name: str, parameter: Tensor) -> bool:
    """Whether BEiT's rule leaves the parameter without weight decay: one dimension, a bias, or the class token.

    The mask token, here a vector, has three dimensions there and is decayed.
    """
    last = name.rsplit(".", 1)[-1]
    return last != "mask_token" and (parameter.ndim <= 1 or last.endswith("bias") or last == "class_token")
