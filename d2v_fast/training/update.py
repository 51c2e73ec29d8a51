"""The update: one owner of the parameters, their moments, the averages that follow them, and the loss scale.

Clipping, unscaling and the skipping of steps that are not finite happen inside the fused AdamW: the host never waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.config import OptimConfig
from d2v_fast.errors import RunError
from d2v_fast.training.precision import LossScale


class Averages(NamedTuple):
    """Moving averages of parameters: tensor i of `averages` follows tensor i of `sources`."""

    averages: list[Tensor]
    """float32, each with memory of its own."""

    sources: list[Tensor]
    """Of the same shapes."""


class Update:
    """One optimizer step: AdamW, the loss scale and the moving averages, all of them or none.

    The fused kernel divides the gradients by `grad_scale` and does nothing at all when `found_inf` is 1, on the CPU and
    on a GPU. So `grad_scale` = loss scale * max(1, norm / clip_norm) unscales and clips in the same pass over memory.

    Attributes:
        whole: False from when `step` begins to write until its caller has counted the step and says so. An error in
            between leaves parameters of two different steps, or of one that is not counted: nothing to save.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        averages: Averages | None,
        config: OptimConfig,
        loss_scale: LossScale,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Take over the parameters; those without `requires_grad` are left alone.

        Args:
            named: Names and parameters; what is saved goes by the names.
            averages: What follows the parameters, if anything does.
            config: AdamW's settings.
            loss_scale: The factor on the loss that float16 needs.
            rates: Names of parameters to the factor on their learning rate, 1 where a name is missing.

        Raises:
            ValueError: A name in `rates` is no parameter's.
        """
        self.config = config
        self.averages = averages
        self.loss_scale = loss_scale
        self.whole = True
        self.named = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.parameters = list(self.named.values())
        self.adamw = torch.optim.AdamW(
            self._groups(rates or {}),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _groups(self, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Parameters of one rate together, those with weight decay first."""
        if unknown := [name for name in rates if name not in self.named]:
            raise ValueError(f"rates names {', '.join(unknown[:3])}, which are no parameters that are trained")
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in self.named.items():
            rate, decayed = rates.get(name, 1.0), self.config.decay_vectors or not is_vector(name, parameter)
            own = {"params": [], "rate": rate} | ({} if decayed else {"weight_decay": 0.0})
            groups.setdefault((rate, not decayed), own)["params"].append(parameter)
        return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], key[1]))]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, float32 [], to those of this step."""
        (loss * self.loss_scale.value).backward()

    def step(
        self, lr: float, loss: Tensor, decay: float | None = None, held: Collection[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """One update from the gradients, which are then gone.

        Args:
            lr: Learning rate of this step.
            loss: float32 [], the loss of the step. If it or the gradient is not finite, nothing changes but the loss
                scale.
            decay: Of the moving averages, once per optimizer step: average = decay * average + (1 - decay) * source.
            held: Names of parameters that stay as they are and whose moments do not begin: those have no gradient.

        Returns:
            The gradient's norm before clipping, float32 [], and found_inf, float32 []: 1 if the step was skipped.
        """
        for name, parameter in self.named.items():
            # A dropped layer: its momentum and weight decay go on, as with a flat gradient.
            if parameter.grad is None and name not in held:
                parameter.grad = torch.zeros_like(parameter)
        scaled_norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None], foreach=True
        )
        norm = scaled_norm / self.loss_scale.value
        found_inf = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
        scale = self.loss_scale.value
        if self.config.clip_norm is not None:
            scale = scale * torch.clamp(norm / self.config.clip_norm, min=1.0)
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["rate"]
        self.adamw.grad_scale = scale  # type: ignore[attr-defined]
        self.adamw.found_inf = found_inf  # type: ignore[attr-defined]
        self.whole = False
        self.adamw.step()
        self.clear()
        self.loss_scale.update(found_inf)
        if self.averages is not None and decay is not None:
            keep = torch.full((), decay, dtype=torch.float64, device=found_inf.device).masked_fill_(found_inf > 0, 1.0)
            ops.ema_update_(*self.averages, keep)
        return norm, found_inf

    def clear(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The moments and the step count of each parameter, as "exp_avg.NAME", "exp_avg_sq.NAME" and "step.NAME"."""
        result = {}
        for name, parameter in self.named.items():
            for key, value in self.adamw.state[parameter].items():
                result[f"{key}.{name}"] = value
        return result

    def load_state(self, state: Mapping[str, Tensor], held: Collection[str] = ()) -> None:
        """The inverse of `state`.

        Args:
            state: What it gave.
            held: Parameters that may have no moments, since no step has changed them so far.

        Raises:
            RunError: The state belongs to another model.
        """
        for name, parameter in self.named.items():
            if name in held and f"step.{name}" not in state:
                continue
            values = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state.get(f"{key}.{name}")
                if value is None or (key != "step" and value.shape != parameter.shape):
                    raise RunError(f"the checkpoint's optimizer has no {key} for {name}: it belongs to another model")
                values[key] = value.to(parameter.device, copy=True)  # not the mapped file
            self.adamw.state[parameter] = values


def is_vector(name: str, parameter: Tensor) -> bool:
    """Whether BEiT's rule leaves the parameter without weight decay: one dimension, a bias, or a class token.

    The mask token, here a vector, has three dimensions there and is decayed.
    """
    last = name.rsplit(".", 1)[-1]
    return last != "mask_token" and (
        parameter.ndim <= 1 or last.endswith("bias") or last in ("class_token", "extra_tokens")
    )
