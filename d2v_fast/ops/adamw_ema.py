"""AdamW, and the moving average that follows the parameters, in place and in one pass over memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import DTYPE_CODES, compiled, dtype_code, register, serve
from d2v_fast.ops._overlap import find_overlap
from d2v_fast.ops.device import adamw_ema as device


def adamw_ema_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Sequence[float],
    weight_decay: float | Sequence[float],
    betas: tuple[float, float],
    eps: float,
    gradient_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    teacher: Sequence[Tensor | None] | None = None,
    decay: float | Tensor = 1.0,
    shadow: Sequence[Tensor | None] | None = None,
    teacher_shadow: Sequence[Tensor | None] | None = None,
) -> None:
    """One step of AdamW with decoupled weight decay, then teacher += (1 - decay) * (parameter - teacher).

    The arithmetic is that of `torch.optim.AdamW(fused=True)` followed by `ema_update_`, within rounding; the moments
    and the step counts are those that torch keeps. Clipping by the gradients' norm is a matter of `gradient_scale`:
    loss scale * max(1, norm / largest norm). Nothing is written in a step whose `found_inf` is not 0.

    Args:
        parameters: float32 or float64.
        gradients: of the shapes and dtypes of the parameters; only read.
        exp_avg: the first moments, likewise.
        exp_avg_sq: the second moments, likewise.
        steps: a float32 [] for each parameter, on its device: how many steps it has done; counted up.
        lr: learning rates, a number for each parameter or one for all.
        weight_decay: likewise.
        betas: decays of the two moments, in [0, 1).
        eps: added to the root of the second moment, at least 0.
        gradient_scale: float32 [], on the parameters' device: what the gradients are divided by; None: nothing.
        found_inf: float32 [], likewise; None: 0.
        teacher: a moving average for each parameter, of its shape and dtype, or None where nothing follows it.
        decay: the share of the old teacher that stays, in [0, 1]; a number, or a float64 [] as in `ema_update_`.
        shadow: a tensor for each parameter, or None, that receives the new parameter rounded to its own dtype.
        teacher_shadow: likewise for the teachers.

    Raises:
        ValueError: lengths, shapes or devices differ, tensors share bytes, a shadow has no teacher, or a number is out
            of its range.
        TypeError: a dtype is another one.
    """
    count = len(parameters)
    if not isinstance(decay, Tensor):
        decay = torch.tensor(decay, dtype=torch.float64, device="cpu")
    place = parameters[0].device if count else "cpu"
    scale = torch.ones((), dtype=torch.float32, device=place) if gradient_scale is None else gradient_scale
    skipped = torch.zeros((), dtype=torch.float32, device=place) if found_inf is None else found_inf
    rates, decays = _for_each(lr, count, "lr"), _for_each(weight_decay, count, "weight_decay")
    written: list[Any] = []
    for name, tensors in (("teacher", teacher), ("shadow", shadow), ("teacher_shadow", teacher_shadow)):
        written += _present(tensors, count, name)
    with torch.no_grad():
        _adamw_ema(
            list(parameters), list(gradients), list(exp_avg), list(exp_avg_sq), list(steps), *written, rates, decays,
            *betas, eps, scale, skipped, decay,
        )  # fmt: skip


class _Lists(NamedTuple):
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


class _Step(NamedTuple):
    """The numbers of a call; the last three are 0-dim tensors."""

    lr: list[float]
    weight_decay: list[float]
    beta1: float
    beta2: float
    eps: float
    gradient_scale: Tensor
    found_inf: Tensor
    decay: Tensor


def _split(arguments: tuple[Any, ...]) -> tuple[_Lists, _Step]:
    return _Lists(*arguments[:11]), _Step(*arguments[11:])


def _for_each(value: float | Sequence[float], count: int, name: str) -> list[float]:
    values = [float(value)] * count if isinstance(value, (int, float)) else list(value)
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} numbers and parameters {count}: give one for each, or one for all")
    return values


def _present(tensors: Sequence[Tensor | None] | None, count: int, name: str) -> tuple[list[Tensor], list[int]]:
    """The tensors that are there, and their places."""
    if tensors is not None and len(tensors) != count:
        raise ValueError(f"{name} has {len(tensors)} tensors and parameters {count}: give one, or None, for each")
    there = [(tensor, index) for index, tensor in enumerate(tensors or ()) if tensor is not None]
    return [tensor for tensor, _ in there], [index for _, index in there]


def _check(*arguments: Any) -> None:
    """The metadata."""
    lists, step = _split(arguments)
    _check_lists(lists)
    _check_gradients(lists)
    _check_numbers(step, lists)


def _check_lists(lists: _Lists) -> None:
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


def _check_gradients(lists: _Lists) -> None:
    """Whole lists are compared first: gradients are new tensors at every step."""
    given, own = lists.gradients, lists.parameters
    if [(x.shape, x.dtype, x.device) for x in given] != [(x.shape, x.dtype, x.device) for x in own]:
        _check_like("gradients", given, range(len(own)), own)


def _check_numbers(step: _Step, lists: _Lists) -> None:
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


def _check_bytes(lists: _Lists) -> None:
    pair = find_overlap(lists.written(), lists.gradients)
    if pair is not None:
        one, other = lists.name(pair[0]), lists.name(pair[1])
        raise ValueError(f"{one} and {other} share memory: list tied parameters once, and give each its own memory")


def _number(decay: Tensor) -> float:
    value = decay.item()
    if not 0.0 <= value <= 1.0:  # NaN too
        raise ValueError(f"decay is {value}; it must be finite and in [0, 1]")
    return value


class _Table(NamedTuple):
    """What is kept of lists that were checked."""

    rows: npt.NDArray[np.int64]
    """[tensors, 12], struct AdamwTensor of csrc/cpu/kernels.h, without the gradients' addresses."""
    starts: npt.NDArray[np.int64]
    """Where memory that is written begins, ascending, and ..."""
    ends: npt.NDArray[np.int64]
    """... ends."""


_KEPT_TABLES = 4
_tables: dict[tuple[Any, ...], _Table] = {}
"""By all that the table and the checks depend on, as in ema.py; gradients have other addresses at every step."""

_changing = threading.Lock()
"""Held while a table is added: two threads that make room at once would take out the same one."""


def _table_of(lists: _Lists, tensors: list[Tensor]) -> _Table:
    """Of contiguous lists, which passed the checks now or before; `tensors` are those that are written."""
    key = (
        *map(Tensor.data_ptr, tensors),
        *[tensor.shape for tensor in tensors],
        *[tensor.dtype for tensor in tensors],
        *(len(lists.parameters), *lists.followed, -1, *lists.shadowed, -1, *lists.teacher_shadowed),
    )
    table = _tables.get(key)
    if table is None:
        _check_lists(lists)
        _check_bytes(lists)
        table = _fill(lists)
        with _changing:
            while len(_tables) >= _KEPT_TABLES:
                _tables.pop(next(iter(_tables)))
            _tables[key] = table
    return table


def _fill(lists: _Lists) -> _Table:
    rows = np.zeros((len(lists.parameters), 12), np.int64)
    for column, given in ((0, lists.parameters), (2, lists.exp_avg), (3, lists.exp_avg_sq), (4, lists.steps)):
        rows[:, column] = [tensor.data_ptr() for tensor in given]
    rows[:, 8] = [tensor.numel() for tensor in lists.parameters]
    rows[:, 9] = [DTYPE_CODES[tensor.dtype] for tensor in lists.parameters]
    for column, given, owners in (
        (5, lists.teacher, lists.followed),
        (6, lists.shadow, lists.shadowed),
        (7, lists.teacher_shadow, lists.teacher_shadowed),
    ):
        rows[owners, column] = [tensor.data_ptr() for tensor in given]
        if column > 5:
            rows[owners, column + 4] = [DTYPE_CODES[tensor.dtype] for tensor in given]
    written = [tensor for tensor in lists.written() if tensor.numel()]
    spans = np.array(sorted((x.data_ptr(), x.data_ptr() + x.nbytes) for x in written), np.int64).reshape(-1, 2)
    return _Table(rows, np.ascontiguousarray(spans[:, 0]), np.ascontiguousarray(spans[:, 1]))


def _on_cpu(*arguments: Any) -> None:
    lists, step = _split(arguments)
    written = lists.written()
    if not all(map(Tensor.is_contiguous, written)) or not all(map(Tensor.is_contiguous, lists.gradients)):
        _elsewhere(*arguments)
        return
    table = _table_of(lists, written)
    _check_gradients(lists)
    _check_numbers(step, lists)
    rows = table.rows.copy()
    rows[:, 1] = begins = np.fromiter(map(Tensor.data_ptr, lists.gradients), np.int64, len(rows))
    ends = begins + rows[:, 8] * np.where(rows[:, 9] == DTYPE_CODES[torch.float64], 8, 4)
    behind = np.searchsorted(table.ends, begins, side="right")  # the first span that ends behind a gradient's begin
    if (np.append(table.starts, np.iinfo(np.int64).max)[behind] < ends).any():
        _check_bytes(lists)
    if float(step.found_inf) != 0.0:
        return
    rates = np.array([step.lr, step.weight_decay], np.float64).T.copy()
    numbers = step.beta1, step.beta2, step.eps, float(step.gradient_scale), _number(step.decay)
    _C.adamw_ema(rows.ctypes.data, rates.ctypes.data, len(rows), *numbers, torch.get_num_threads())
    torch.autograd.graph.increment_version(written)  # what autograd saved of them must not be used any more


def _on_gpu(*arguments: Any) -> None:
    _check(*arguments)
    lists, step = _split(arguments)
    _check_bytes(lists)
    formats = [tensor.dtype for tensor in (*lists.parameters, *lists.shadow, *lists.teacher_shadow)]
    if device.serves(lists.written() + lists.gradients, formats):
        teacher, shadow, teacher_shadow = _optional(lists)
        decay = step.decay
        if decay.is_cpu:  # a fill, not a copy from the host: nothing waits
            decay = torch.full((), _number(decay), dtype=torch.float64, device=lists.parameters[0].device)
        device.update_(
            lists.parameters, lists.gradients, lists.exp_avg, lists.exp_avg_sq, lists.steps, teacher, shadow,
            teacher_shadow, *step[:-1], decay,
        )  # fmt: skip
        torch.autograd.graph.increment_version(lists.written())
    else:
        _by_reference(lists, step)


def _elsewhere(*arguments: Any) -> None:
    _check(*arguments)
    lists, step = _split(arguments)
    _check_bytes(lists)
    _by_reference(lists, step)


def _by_reference(lists: _Lists, step: _Step) -> None:
    teacher, shadow, teacher_shadow = _optional(lists)
    reference.adamw_ema_(
        *lists[:5], lr=step.lr, weight_decay=step.weight_decay, betas=(step.beta1, step.beta2), eps=step.eps,
        gradient_scale=step.gradient_scale, found_inf=step.found_inf, teacher=teacher,
        decay=_number(step.decay) if step.decay.is_cpu else step.decay, shadow=shadow, teacher_shadow=teacher_shadow,
    )  # fmt: skip


def _optional(lists: _Lists) -> list[list[Tensor | None]]:
    """Teachers and the two kinds of shadows, one entry for each parameter."""
    result = []
    for tensors, owners in zip(lists[5::2], lists[6::2], strict=True):
        entries: list[Tensor | None] = [None] * len(lists.parameters)
        for owner, tensor in zip(owners, tensors, strict=True):
            entries[owner] = tensor
        result.append(entries)
    return result


_adamw_ema = register(
    "adamw_ema_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, "
    "Tensor(d!)[] steps, Tensor(e!)[] teacher, int[] followed, Tensor(f!)[] shadow, int[] shadowed, "
    "Tensor(g!)[] teacher_shadow, int[] teacher_shadowed, float[] lr, float[] weight_decay, float beta1, float beta2, "
    "float eps, Tensor gradient_scale, Tensor found_inf, Tensor decay) -> ()",
    cpu=_on_cpu,
    cuda=_on_gpu,
    other=_elsewhere,
    fake=_check,
)
serve("adamw_ema_", cpu=compiled, cuda=device.backend)
