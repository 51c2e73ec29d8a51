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
from d2v_fast.ops._adamw_lists import Lists, Step, check_bytes, check_gradients, check_lists, check_numbers
from d2v_fast.ops._library import DTYPE_CODES, compiled, decay_number, register, serve
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


def _split(arguments: tuple[Any, ...]) -> tuple[Lists, Step]:
    return Lists(*arguments[:11]), Step(*arguments[11:])


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
    check_lists(lists)
    check_gradients(lists)
    check_numbers(step, lists)


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


def _table_of(lists: Lists, tensors: list[Tensor]) -> _Table:
    """Of contiguous lists, which passed the checks now or before; `tensors` are those that are written."""
    key = (
        *map(Tensor.data_ptr, tensors),
        *[tensor.shape for tensor in tensors],
        *[tensor.dtype for tensor in tensors],
        *(len(lists.parameters), *lists.followed, -1, *lists.shadowed, -1, *lists.teacher_shadowed),
    )
    table = _tables.get(key)
    if table is None:
        check_lists(lists)
        check_bytes(lists)
        table = _fill(lists)
        with _changing:
            while len(_tables) >= _KEPT_TABLES:
                _tables.pop(next(iter(_tables)))
            _tables[key] = table
    return table


def _fill(lists: Lists) -> _Table:
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
    check_gradients(lists)
    check_numbers(step, lists)
    rows = table.rows.copy()
    rows[:, 1] = begins = np.fromiter(map(Tensor.data_ptr, lists.gradients), np.int64, len(rows))
    ends = begins + rows[:, 8] * np.where(rows[:, 9] == DTYPE_CODES[torch.float64], 8, 4)
    behind = np.searchsorted(table.ends, begins, side="right")  # the first span that ends behind a gradient's begin
    if (np.append(table.starts, np.iinfo(np.int64).max)[behind] < ends).any():
        check_bytes(lists)
    if float(step.found_inf) != 0.0:
        return
    rates = np.array([step.lr, step.weight_decay], np.float64).T.copy()
    numbers = step.beta1, step.beta2, step.eps, float(step.gradient_scale), decay_number(step.decay)
    _C.adamw_ema(rows.ctypes.data, rates.ctypes.data, len(rows), *numbers, torch.get_num_threads())
    torch.autograd.graph.increment_version(written)  # what autograd saved of them must not be used any more


def _on_gpu(*arguments: Any) -> None:
    _check(*arguments)
    lists, step = _split(arguments)
    check_bytes(lists)
    formats = [tensor.dtype for tensor in (*lists.parameters, *lists.shadow, *lists.teacher_shadow)]
    if device.serves(lists.written() + lists.gradients, formats):
        teacher, shadow, teacher_shadow = lists.optional()
        decay = step.decay
        if decay.is_cpu:  # a fill, not a copy from the host: nothing waits
            decay = torch.full((), decay_number(decay), dtype=torch.float64, device=lists.parameters[0].device)
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
    check_bytes(lists)
    _by_reference(lists, step)


def _by_reference(lists: Lists, step: Step) -> None:
    teacher, shadow, teacher_shadow = lists.optional()
    reference.adamw_ema_(
        *lists[:5], lr=step.lr, weight_decay=step.weight_decay, betas=(step.beta1, step.beta2), eps=step.eps,
        gradient_scale=step.gradient_scale, found_inf=step.found_inf, teacher=teacher,
        decay=decay_number(step.decay) if step.decay.is_cpu else step.decay, shadow=shadow,
        teacher_shadow=teacher_shadow,
    )  # fmt: skip


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
