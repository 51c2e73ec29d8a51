"""What `adamw_ema_` is given: lists of tensors and numbers, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from d2v_fast.ops._library import dtype_code
from d2v_fast.ops._overlap import find_overlap


class Lists(NamedTuple):
    """The tensors of a call, and which parameters those belong to that not every parameter has."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    steps: list[Tensor]
    teacher: list[Tensor]
    followed: list[int]
    shadow: list[Tensor]
    shadowed: list[int]
    teacher_shadow: list[Tensor]
    teacher_shadowed: list[int]

    def written(self) -> list[Tensor]:
        """All but the gradients."""
        given = (self.parameters, self.exp_avg, self.exp_avg_sq, self.steps, self.teacher, self.shadow)
        return [tensor for tensors in (*given, self.teacher_shadow) for tensor in tensors]

    def name(self, index: int) -> str:
        """Of a tensor of `written()`, or behind them of a gradient, for errors."""
        names = "parameters", "exp_avg", "exp_avg_sq", "steps", "teacher", "shadow", "teacher_shadow", "gradients"
        owners = (None, None, None, None, self.followed, self.shadowed, self.teacher_shadowed, None)
        for name, owner in zip(names, owners, strict=True):
            length = len(self.parameters) if owner is None else len(owner)
            if index < length:
                return f"{name}[{index if owner is None else owner[index]}]"
            index -= length
        raise IndexError(index)

    def optional(self) -> list[list[Tensor | None]]:
        """Teachers and the two kinds of shadows, one entry for each parameter."""
        result = []
        for tensors, owners in zip(self[5::2], self[6::2], strict=True):
            entries: list[Tensor | None] = [None] * len(self.parameters)
            for owner, tensor in zip(owners, tensors, strict=True):
                entries[owner] = tensor
            result.append(entries)
        return result


class Step(NamedTuple):
    """The numbers of a call; the last three are 0-dim tensors."""

    lr: list[float]
    weight_decay: list[float]
    beta1: float
    beta2: float
    eps: float
    gradient_scale: Tensor
    found_inf: Tensor
    decay: Tensor


def check_lists(lists: Lists) -> None:
    """All but the gradients."""
    parameters, every = lists.parameters, range(len(lists.parameters))
    for index, tensor in enumerate(parameters):
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"parameters[{index}] has dtype {tensor.dtype}; use float32 or float64, and a `shadow`")
    for name in ("exp_avg", "exp_avg_sq"):
        _check_like(name, getattr(lists, name), every, parameters)
    if len(lists.steps) != len(parameters):
        raise ValueError(f"steps has {len(lists.steps)} tensors and parameters {len(parameters)}: they go in pairs")
    for index, tensor in enumerate(lists.steps):
        if tensor.dtype != torch.float32 or tensor.dim() != 0 or tensor.device != parameters[index].device:
            found = f"a {tensor.dim()}-dim {tensor.dtype} on {tensor.device}"
            raise TypeError(f"steps[{index}] is {found}; use a 0-dim float32 on {parameters[index].device}")
    _check_like("teacher", lists.teacher, lists.followed, parameters)
    _check_like("shadow", lists.shadow, lists.shadowed, parameters, any_dtype=True)
    _check_like("teacher_shadow", lists.teacher_shadow, lists.teacher_shadowed, parameters, any_dtype=True)
    if lost := sorted(set(lists.teacher_shadowed) - set(lists.followed)):
        raise ValueError(f"teacher_shadow[{lost[0]}] has no teacher")


def _check_like(
    name: str,
    tensors: Sequence[Tensor],
    owners: Sequence[int],
    parameters: Sequence[Tensor],
    *,
    any_dtype: bool = False,
) -> None:
    if len(tensors) != len(owners):
        raise ValueError(f"{name} has {len(tensors)} tensors and parameters {len(owners)}: they go in pairs")
    for index, tensor in zip(owners, tensors, strict=True):
        own, what = parameters[index], f"{name}[{index}]"
        if tensor.shape != own.shape:
            raise ValueError(f"{what} has shape {tuple(tensor.shape)} and parameters[{index}] {tuple(own.shape)}")
        if tensor.device != own.device:
            raise ValueError(f"{what} is on {tensor.device} and parameters[{index}] on {own.device}: move one")
        if any_dtype:
            dtype_code(tensor, what)
        elif tensor.dtype != own.dtype:
            raise TypeError(f"{what} has dtype {tensor.dtype} and parameters[{index}] {own.dtype}: they must agree")


def check_gradients(lists: Lists) -> None:
    """Whole lists are compared first: gradients are new tensors at every step."""
    given, own = lists.gradients, lists.parameters
    if [(x.shape, x.dtype, x.device) for x in given] != [(x.shape, x.dtype, x.device) for x in own]:
        _check_like("gradients", given, range(len(own)), own)


def check_numbers(step: Step, lists: Lists) -> None:
    """Ranges, formats and devices of the numbers."""
    for name, value in (("beta1", step.beta1), ("beta2", step.beta2)):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} is {value}; it must be in [0, 1)")
    if not step.eps >= 0.0:
        raise ValueError(f"eps is {step.eps}; it must be at least 0")
    for name, values in (("lr", step.lr), ("weight_decay", step.weight_decay)):
        if len(values) != len(lists.parameters):
            raise ValueError(f"{name} has {len(values)} numbers and parameters {len(lists.parameters)}")
    for name, tensor in (("gradient_scale", step.gradient_scale), ("found_inf", step.found_inf)):
        if tensor.dtype != torch.float32 or tensor.dim() != 0:
            raise TypeError(f"{name} is a {tensor.dim()}-dim {tensor.dtype} tensor; use a 0-dim float32 tensor")
        if lists.parameters and tensor.device != lists.parameters[0].device:
            raise ValueError(
                f"{name} is on {tensor.device} and parameters[0] on {lists.parameters[0].device}: move one"
            )
    if step.decay.dtype != torch.float64 or step.decay.dim() != 0:
        raise TypeError(f"decay is a {step.decay.dim()}-dim {step.decay.dtype} tensor; use a number or a 0-dim float64")


def check_bytes(lists: Lists) -> None:
    """Nothing that is written shares memory with anything else."""
    pair = find_overlap(lists.written(), lists.gradients)
    if pair is not None:
        one, other = lists.name(pair[0]), lists.name(pair[1])
        raise ValueError(f"{one} and {other} share memory: list tied parameters once, and give each its own memory")
