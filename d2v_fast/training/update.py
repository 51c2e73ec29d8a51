"""The update: one owner of the parameters, their moments, the averages that follow them, and the loss scale.

Clipping, unscaling and the skipping of steps that are not finite happen inside the fused AdamW: the host never waits.
On a CPU the averages are moved in the same pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2v_fast import ops
from d2v_fast.config import OptimConfig
from d2v_fast.errors import RunError
from d2v_fast.ops.shadows import forget_shadows, keep_shadows, shadows_of, shadows_written
from d2v_fast.training.precision import LossScale


class Averages(NamedTuple):
    """Moving averages of parameters: tensor i of `averages` follows tensor i of `sources`."""

    averages: list[Tensor]
    """float32, each with memory of its own."""

    sources: list[Tensor]
    """Of the same shapes."""


class Update:
    """One optimizer step: AdamW, the loss scale and the moving averages, all of them or none.

    Either fused kernel, torch's or ours, divides the gradients by a scale and does nothing at all when `found_inf` is
    1. So a scale of loss scale * max(1, norm / clip_norm) unscales and clips in the same pass over memory.

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
        *,
        one_pass: bool = True,
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Take over the parameters; those without `requires_grad` are left alone.

        Args:
            named: Names and parameters; what is saved goes by the names.
            averages: What follows the parameters, if anything does.
            config: AdamW's settings.
            loss_scale: The factor on the loss that float16 needs.
            rates: Names of parameters to the factor on their learning rate, 1 where a name is missing.
            one_pass: Whether `ops.adamw_ema_` may do it, which is faster on a CPU; its last bits are not torch's.
            total: Makes the norm of the whole gradient of that of these parameters', if they are parts.

        Raises:
            ValueError: A name in `rates` is no parameter's.
        """
        self.config = config
        self.averages = averages
        self.loss_scale = loss_scale
        self.whole = True
        self._total = total
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
        # torch's kernel has no other way to scale and to skip; for a GPU ours has not been timed.
        self.one_pass = one_pass and all(p.is_cpu and p.dtype == torch.float32 for p in self.parameters)
        if self.one_pass:  # the averages are read once in a step: their copies do not pay for their memory
            keep_shadows(self.parameters)

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

    def complete(self, held: Collection[str] = ()) -> list[nn.Parameter]:
        """See to it that every parameter that is not held has a gradient.

        A dropped layer has none: its momentum and weight decay go on, as with a flat gradient.

        Returns:
            Those parameters, in the order of their names' first mention.
        """
        moving = [parameter for name, parameter in self.named.items() if name not in held]
        for parameter in moving:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return moving

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
        self.complete(held)
        scaled_norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None], foreach=True
        )
        if self._total is not None:
            scaled_norm = self._total(scaled_norm)
        norm = scaled_norm / self.loss_scale.value
        found_inf = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
        scale = self.loss_scale.value
        if self.config.clip_norm is not None:
            scale = scale * torch.clamp(norm / self.config.clip_norm, min=1.0)
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["rate"]
        self.whole = False
        if self.one_pass:
            self._step_in_one_pass(scale, found_inf, decay)
        else:
            self._step_by_torch(scale, found_inf, decay)
        self.clear()
        self.loss_scale.update(found_inf)
        return norm, found_inf

    def _step_by_torch(self, scale: Tensor, found_inf: Tensor, decay: float | None) -> None:
        self.adamw.grad_scale = scale  # type: ignore[attr-defined]  # torch's step looks for both, and declares neither
        self.adamw.found_inf = found_inf  # type: ignore[attr-defined]  # see above
        self.adamw.step()
        if self.averages is not None:
            _move(self.averages, decay, found_inf)

    def _step_in_one_pass(self, scale: Tensor, found_inf: Tensor, decay: float | None) -> None:
        """The same with the averages of what is trained; those of anything else follow as before."""
        following: dict[int, Tensor] = {}
        rest = Averages([], [])
        updated = {id(parameter) for parameter in self.parameters if parameter.grad is not None}
        if self.averages is not None and decay is not None:
            for average, source in zip(*self.averages, strict=True):
                if id(source) in updated and id(source) not in following and average.dtype == torch.float32:
                    following[id(source)] = average
                else:
                    rest.averages.append(average)
                    rest.sources.append(source)
        groups = self.adamw.param_groups
        given = [(p, group) for group in groups for p in group["params"] if p.grad is not None]
        states = [self._state_of(parameter) for parameter, _ in given]
        parameters = [parameter for parameter, _ in given]
        ops.adamw_ema_(
            parameters,
            [parameter.grad for parameter, _ in given],
            *[[state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step")],
            lr=[group["lr"] for _, group in given],
            weight_decay=[group["weight_decay"] for _, group in given],
            betas=self.config.betas,
            eps=self.config.eps,
            gradient_scale=scale,
            found_inf=found_inf,
            teacher=[following.get(id(parameter)) for parameter in parameters],
            decay=1.0 if decay is None else decay,
            shadow=shadows_of(parameters),
        )
        shadows_written(parameters)
        _move(rest, decay, found_inf)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The moments and the step count, new ones if there are none, as torch makes them."""
        state: dict[str, Tensor] = self.adamw.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state

    def end(self) -> None:
        """Nothing more is trained: give back what only helps a step."""
        forget_shadows(self.parameters)

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


def _move(averages: Averages, decay: float | None, found_inf: Tensor) -> None:
    """The averages' step, which is none if `found_inf` is 1."""
    if decay is not None and averages.averages:
        keep = torch.full((), decay, dtype=torch.float64, device=found_inf.device).masked_fill_(found_inf > 0, 1.0)
        ops.ema_update_(*averages, keep)


def is_vector(name: str, parameter: Tensor) -> bool:
    """Whether BEiT's rule leaves the parameter without weight decay: one dimension, a bias, or a class token.

    The mask token, here a vector, has three dimensions there and is decayed.
    """
    last = name.rsplit(".", 1)[-1]
    return last != "mask_token" and (
        parameter.ndim <= 1 or last.endswith("bias") or last in ("class_token", "extra_tokens")
    )
