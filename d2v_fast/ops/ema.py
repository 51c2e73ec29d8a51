"""Exponential moving average of a list of tensors, in place: the teacher's step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from d2v_fast import _C, reference
from d2v_fast.ops._library import DTYPE_CODES, compiled, decay_number, dtype_code, register, serve
from d2v_fast.ops._overlap import find_overlap
from d2v_fast.ops.device import ema as device


def ema_update_(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    decay: float | Tensor,
    shadow: Sequence[Tensor] | None = None,
) -> None:
    """Moves each teacher towards its student in place: teacher += (1 - decay) * (student - teacher).

    One pass over memory for the whole list (data2vec, section 3.3, "teacher parameterization"). `1 - decay` is taken in
    float64; the arithmetic is the teacher's. Decay 0 copies the student bit for bit, decay 1 changes nothing. Gradients
    neither flow through it nor are asked for. Non-contiguous tensors work, through copies.

    Args:
        teacher: the running means, float32 or float64.
        student: a tensor of the same shape for each, of any floating dtype; the same tensor may stand there twice.
        decay: the share of the old teacher that stays, in [0, 1]; a number, or a 0-dim float64 tensor, which is neither
            read on the host nor checked when it lives on another device.
        shadow: a tensor for each teacher that receives the new teacher rounded to its own dtype, in the same pass.

    Raises:
        ValueError: lengths, shapes or devices differ, tensors share bytes (also: one parameter listed twice), or decay
            is not in [0, 1].
        TypeError: the teacher is not float32 or float64, a dtype is not floating, or the decay tensor is not 0-dim
            float64.
    """
    if shadow is not None and len(shadow) != len(teacher):
        raise ValueError(f"shadow has {len(shadow)} tensors and teacher {len(teacher)}: they go in pairs")
    if not isinstance(decay, Tensor):
        decay = torch.tensor(decay, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        _ema_update(list(teacher), list(student), decay, list(shadow or ()))


def _check(teacher: list[Tensor], student: list[Tensor], decay: Tensor, shadow: list[Tensor]) -> None:
    """The metadata; an empty `shadow` is none. Whole lists are compared first: this runs at every step."""
    if decay.dtype != torch.float64 or decay.dim() != 0:
        raise TypeError(
            f"decay is a {decay.dim()}-dim {decay.dtype} tensor; use a number or a 0-dim float64 tensor "
            "(1 - 0.9999 taken in float32 is off by 1.7e-4 of itself)"
        )
    if not {tensor.dtype for tensor in teacher} <= {torch.float32, torch.float64}:
        index = next(i for i, tensor in enumerate(teacher) if tensor.dtype not in (torch.float32, torch.float64))
        raise TypeError(
            f"teacher[{index}] has dtype {teacher[index].dtype}; the teacher must be float32 or float64, or small "
            "steps are lost (pass low-precision copies as `shadow`)"
        )
    shapes, devices = [tensor.shape for tensor in teacher], [tensor.device for tensor in teacher]
    for name, tensors in (("student", student), ("shadow", shadow)) if shadow else (("student", student),):
        if len(tensors) != len(teacher):
            raise ValueError(f"{name} has {len(tensors)} tensors and teacher {len(teacher)}: they go in pairs")
        if [tensor.shape for tensor in tensors] != shapes:
            index = next(i for i, tensor in enumerate(tensors) if tensor.shape != shapes[i])
            raise ValueError(
                f"{name}[{index}] has shape {tuple(tensors[index].shape)} and teacher[{index}] {tuple(shapes[index])}"
            )
        if not DTYPE_CODES.keys() >= {tensor.dtype for tensor in tensors}:
            for index, tensor in enumerate(tensors):
                dtype_code(tensor, f"{name}[{index}]")
        if [tensor.device for tensor in tensors] != devices:
            index = next(i for i, tensor in enumerate(tensors) if tensor.device != devices[i])
            raise ValueError(
                f"{name}[{index}] is on {tensors[index].device} and teacher[{index}] on {devices[index]}: move one"
            )


def _check_bytes(teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor]) -> None:
    pair = find_overlap([*teacher, *shadow], student)
    if pair is None:
        return
    names = [f"teacher[{i}]" for i in range(len(teacher))] + [f"shadow[{i}]" for i in range(len(shadow))]
    names += [f"student[{i}]" for i in range(len(student))]
    one, other = pair
    if one == other:
        raise ValueError(
            f"elements of {names[one]} share memory (an expanded tensor?): pass a copy, for example .clone()"
        )
    raise ValueError(
        f"{names[one]} and {names[other]} share memory: list tied parameters once, and give the teacher its own memory"
    )


def _on_cpu(teacher: list[Tensor], student: list[Tensor], decay: Tensor, shadow: list[Tensor]) -> None:
    tensors = [*teacher, *student, *shadow]
    if all(map(Tensor.is_contiguous, tensors)):
        table = _table_of(teacher, student, decay, shadow, tensors)
        _C.ema(table.ctypes.data, len(teacher), decay_number(decay), torch.get_num_threads())
    else:
        _check(teacher, student, decay, shadow)
        _check_bytes(teacher, student, shadow)
        means, samples, copies = ([tensor.contiguous() for tensor in list_] for list_ in (teacher, student, shadow))
        table = _fill_table(means, samples, copies)
        _C.ema(table.ctypes.data, len(teacher), decay_number(decay), torch.get_num_threads())
        torch._foreach_copy_([*teacher, *shadow], [*means, *copies])
    # What autograd saved of a tensor that changed here must not be used any more.
    torch.autograd.graph.increment_version([*teacher, *shadow])


_KEPT_TABLES = 8
_tables: dict[tuple[Any, ...], npt.NDArray[np.int64]] = {}
"""The kernel's tables by all that they and the checks depend on, so none can be out of date: the lists are the same at
every step, and checking 464 tensors anew takes as long as moving 10 MB."""

_changing = threading.Lock()
"""Held while a table is added: two threads that make room at once would take out the same one."""


def _table_of(
    teacher: list[Tensor], student: list[Tensor], decay: Tensor, shadow: list[Tensor], tensors: list[Tensor]
) -> npt.NDArray[np.int64]:
    """The table of contiguous tensors, which passed the checks now or before."""
    key = (
        *map(Tensor.data_ptr, tensors),
        *[tensor.shape for tensor in tensors],
        *[tensor.dtype for tensor in tensors],
        *(len(teacher), len(student), decay.dtype, decay.dim()),
    )
    table = _tables.get(key)
    if table is None:
        _check(teacher, student, decay, shadow)
        _check_bytes(teacher, student, shadow)
        table = _fill_table(teacher, student, shadow)
        with _changing:
            while len(_tables) >= _KEPT_TABLES:
                _tables.pop(next(iter(_tables)))
            _tables[key] = table
    return table


def _fill_table(teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor]) -> npt.NDArray[np.int64]:
    table = np.zeros((7, len(teacher)), np.int64)  # a column becomes one struct EmaTensor of csrc/cpu/kernels.h
    table[3] = [tensor.numel() for tensor in teacher]
    for column, tensors in enumerate((teacher, student, shadow) if shadow else (teacher, student)):
        table[column] = [tensor.data_ptr() for tensor in tensors]
        table[4 + column] = [DTYPE_CODES[tensor.dtype] for tensor in tensors]
    return np.ascontiguousarray(table.T)


def _on_gpu(teacher: list[Tensor], student: list[Tensor], decay: Tensor, shadow: list[Tensor]) -> None:
    _check(teacher, student, decay, shadow)
    _check_bytes(teacher, student, shadow)
    device.update_(teacher, student, decay_number(decay) if decay.is_cpu else decay, shadow)
    torch.autograd.graph.increment_version([*teacher, *shadow])


def _elsewhere(teacher: list[Tensor], student: list[Tensor], decay: Tensor, shadow: list[Tensor]) -> None:
    _check(teacher, student, decay, shadow)
    _check_bytes(teacher, student, shadow)
    reference.ema_update_(teacher, student, decay_number(decay) if decay.is_cpu else decay, shadow or None)


_ema_update = register(
    "ema_update_(Tensor(a!)[] teacher, Tensor[] student, Tensor decay, Tensor(b!)[] shadow) -> ()",
    cpu=_on_cpu,
    cuda=_on_gpu,
    other=_elsewhere,
    fake=_check,
)
serve("ema_update_", cpu=compiled, cuda=device.backend)
