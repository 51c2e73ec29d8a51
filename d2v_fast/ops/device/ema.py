"""The moving average on a GPU: one launch over a table of addresses, which is kept from step to step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from d2v_fast import reference
from d2v_fast.kernels import launch
from d2v_fast.ops._library import DTYPE_CODES, Backend
from d2v_fast.ops.device import launching, routes

_KEPT = 16
"""Tables kept, those in use by a captured graph not counted: 32 bytes for 16384 parameters each."""

_COVERAGE = routes.Coverage(
    cuda="tensors of every dtype",
    triton="float32 teachers with students and shadows of 32 or 16 bits",
    torch="what is neither contiguous nor dense in one common order, and float64 without CUDA C++",
    why="one launch for the whole list, mixed dtypes too; CUDA C++ first, which compiles nothing when it runs",
)


@dataclass
class _Plan:
    """What one list of tensors needs at every step; as good as its key, which says all that it was made from."""

    place: tuple[int, int]
    """Device and stream that the tables were made on."""
    groups: list[tuple[launch.EmaGroup | None, Tensor]] = field(default_factory=list)
    """One for each launch: Triton's constants (None: CUDA C++) and the table, int64 [chunks, 4] on the device."""
    plain: list[int] = field(default_factory=list)
    """Indices of tensors that no kernel takes."""
    captured: bool = False
    """Whether a CUDA graph holds addresses of the tables: then they stay for good."""


_plans: dict[object, _Plan] = {}
_changing = threading.Lock()
"""Held while a plan is looked for: it is taken out and put back as the latest."""


def update_(teacher: list[Tensor], student: list[Tensor], decay: float | Tensor, shadow: list[Tensor]) -> None:
    """Moves every teacher, and writes the shadows (an empty list: none). The arguments are checked.

    Args:
        teacher: float32 or float64, in place; pairs may be on several devices.
        student: of the teachers' shapes and devices.
        decay: a checked number, or a 0-dim float64 tensor that is not read here.
        shadow: of the teachers' shapes and devices.

    Raises:
        RuntimeError: a launch failed; or a CUDA graph is captured and there is no table for these tensors yet.
    """
    devices = {tensor.device for tensor in teacher}
    for device in devices:
        if len(devices) == 1:
            _update_on(device, teacher, student, decay, shadow)
        else:
            here = [index for index, tensor in enumerate(teacher) if tensor.device == device]
            means, samples = _pick(here, teacher, student)
            _update_on(device, means, samples, decay, _pick(here, shadow)[0] if shadow else [])


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)


def _update_on(
    device: torch.device, teacher: list[Tensor], student: list[Tensor], decay: float | Tensor, shadow: list[Tensor]
) -> None:
    obstacles = routes.obstacles(device)
    if obstacles.cuda and obstacles.triton:
        reference.ema_update_(teacher, student, decay, shadow or None)
        return
    with launching.on(device):
        plan = _find(device, teacher, student, shadow, by_cuda=obstacles.cuda is None)
        if plan.groups:
            kept = decay.to(device) if isinstance(decay, Tensor) else _number_on(device, decay)
            for group, table in plan.groups:
                _start(device, group, table, kept)
        if plan.plain:
            means, samples = _pick(plan.plain, teacher, student)
            copies = _pick(plan.plain, shadow)[0] if shadow else None
            reference.ema_update_(means, samples, decay, copies)


def _number_on(device: torch.device, value: float) -> Tensor:
    """A fill, not a copy from the host: nothing waits, and a graph may record it."""
    return torch.full((), value, dtype=torch.float64, device=device)


def _pick(indices: Sequence[int], *lists: list[Tensor]) -> list[list[Tensor]]:
    return [[tensors[index] for index in indices] for tensors in lists]


def _find(
    device: torch.device, teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor], *, by_cuda: bool
) -> _Plan:
    """The plan of the list, made at the first call and whenever a tensor has moved."""
    tensors = [*teacher, *student, *shadow]
    strides = None if all(map(Tensor.is_contiguous, tensors)) else tuple(map(Tensor.stride, tensors))
    addresses, formats = tuple(map(Tensor.data_ptr, tensors)), tuple(tensor.dtype for tensor in tensors)
    key = (device, by_cuda, addresses, formats, tuple(tensor.shape for tensor in teacher), strides)
    with _changing:
        return _latest(key, device, teacher, student, shadow, by_cuda=by_cuda)


def _latest(
    key: object,
    device: torch.device,
    teacher: list[Tensor],
    student: list[Tensor],
    shadow: list[Tensor],
    *,
    by_cuda: bool,
) -> _Plan:
    """The plan kept under this key, or a new one; it is the last of those kept then."""
    plan = _plans.pop(key, None)
    captured = launching.capturing()
    if plan is None:
        if captured:
            raise RuntimeError(
                "ema_update_: a CUDA graph is being captured, and the table of addresses on the device is not that of "
                "these tensors (some have moved, or there was no call yet): call it once with the same tensors before "
                "the capture"
            )
        plan = _make(device, teacher, student, shadow, by_cuda=by_cuda)
        for old in [old for old, other in _plans.items() if not other.captured][: -(_KEPT - 1)]:
            del _plans[old]
    elif not captured and plan.place != launching.place(device):  # what a graph has captured stays anyway
        launching.keep_for((table for _, table in plan.groups), device)
    plan.captured |= captured
    _plans[key] = plan  # the latest is last
    return plan


def _make(
    device: torch.device, teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor], *, by_cuda: bool
) -> _Plan:
    plan = _Plan(launching.place(device))
    fast: list[tuple[Tensor, ...]] = []
    lists = (teacher, student, shadow) if shadow else (teacher, student)
    for index, together in enumerate(zip(*lists, strict=True)):
        known = by_cuda or torch.float64 not in [tensor.dtype for tensor in together]
        if known and _flat(together):
            fast.append(together)
        else:
            plan.plain.append(index)
    if by_cuda:
        table = _cuda_table(fast)
        if len(table):
            plan.groups.append((None, torch.from_numpy(table).to(device)))
    else:
        for group in launch.ema_groups(map(_named, fast)):
            plan.groups.append((group, torch.tensor(group.table, dtype=torch.int64, device="cpu").to(device)))
    return plan


def _flat(tensors: Sequence[Tensor]) -> bool:
    """Whether the tensors are runs of memory, with the same elements at the same places."""
    if all(map(Tensor.is_contiguous, tensors)):
        return True
    first = tensors[0]
    reach = 1
    for stride, size in sorted(zip(first.stride(), first.shape, strict=True)):
        if size > 1:
            if stride != reach:
                return False
            reach *= size
    return all(tensor.stride() == first.stride() for tensor in tensors)


def _cuda_table(tensors: list[tuple[Tensor, ...]]) -> npt.NDArray[np.int64]:
    rows = np.zeros((len(tensors), 7), np.int64)  # a row is one struct EmaTensor of csrc/cpu/kernels.h
    for row, together in zip(rows, tensors, strict=True):
        row[3] = together[0].numel()
        for column, tensor in enumerate(together):
            row[column], row[4 + column] = tensor.data_ptr(), DTYPE_CODES[tensor.dtype]
    from d2v_fast import _cuda

    return _cuda.ema_table(rows.ctypes.data, len(rows))


def _named(tensors: tuple[Tensor, ...]) -> launch.EmaTensor:
    """The tensors as the rules of `launch` see them."""
    teacher, student, *shadow = tensors
    formats = [str(tensor.dtype).removeprefix("torch.") for tensor in (student, *shadow)]
    address, copied = (shadow[0].data_ptr(), formats[1]) if shadow else (0, None)
    return launch.EmaTensor(teacher.data_ptr(), student.data_ptr(), address, teacher.numel(), formats[0], copied)


def _start(device: torch.device, group: launch.EmaGroup | None, table: Tensor, decay: Tensor) -> None:
    if group is None:
        from d2v_fast import _cuda

        _cuda.ema(table.data_ptr(), len(table), decay.data_ptr(), *launching.place(device))
        return
    import triton.language as tl

    from d2v_fast.kernels import ema

    formats = [None if name is None else getattr(tl, name) for name in (group.student_format, group.shadow_format)]
    options = (*formats, group.aligned, launch.EMA_BLOCK)
    launching.start(ema.ema_update, (len(table),), table, decay, *options, warps=launch.EMA_WARPS)
