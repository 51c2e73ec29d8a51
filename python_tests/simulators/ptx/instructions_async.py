"""cp.async: copies from global to shared memory that arrive when their thread waits for them.

Until then the bytes count as uninitialised: to read them is a fault. For other threads they are written by the wait, so
that a barrier must follow it; and the threads that read what lay there before must be done when the copy is asked for.
"""

from __future__ import annotations

import numpy as np

from .errors import NotSimulated
from .instructions import Execute, effect, only
from .instructions_memory import check_race, check_written, count_traffic
from .machine import Copy, Machine, Mask
from .parse import Instruction
from .types import UNSIGNED, type_named


@effect("cp")
def _asynchronous_copy(instruction: Instruction, machine: Machine) -> Execute:
    hints = ("L2::64B", "L2::128B", "L2::256B")
    places = ("ca", "cg", "shared", "shared::cta", "global")
    how = only(instruction, "async", *places, *hints, "commit_group", "wait_group", "wait_all")
    if "commit_group" in how:
        return lambda mask: _commit(machine, mask)
    if how & {"wait_group", "wait_all"}:
        left = int(instruction.operands[0], 0) if "wait_group" in how else 0
        return lambda mask: _wait(machine, instruction, mask, left, everything="wait_all" in how)
    return _start(instruction, machine)


def _start(instruction: Instruction, machine: Machine) -> Execute:
    to, source, size, *given = instruction.operands
    width = int(size, 0)
    word = min(width, 8)
    u32 = type_named("u32")
    target, _ = machine.address(to)
    address, _ = machine.address(source)
    wanted = machine.reader(given[0], u32) if given else None

    def execute(mask: Mask) -> None:
        lanes = machine.active(mask)
        position = machine.locate("shared", target()[lanes], width, lanes)[1]
        values = np.zeros((lanes.size, width // word), UNSIGNED[8 * word])
        count = np.full(lanes.size, width) if wanted is None else np.broadcast_to(wanted(), machine.lanes)[lanes]
        if not np.isin(count, (0, width)).all():
            raise NotSimulated("cp.async of a part of its bytes")
        read = np.flatnonzero(count)
        if read.size:
            readers = lanes[read]
            at = machine.locate("global", address()[readers], width, readers)[1]
            check_written(machine, "global", at, width, readers)
            count_traffic(machine, instruction, "global", "read", at, width, readers)
            check_race(machine, "global", "read", at, width, readers)
            for part in range(width // word):
                values[read, part] = machine.spaces["global"].load(at + part * word, word)
        count_traffic(machine, instruction, "shared", "write", position, width, lanes)
        check_race(machine, "shared", "write", position, width, lanes)
        written = machine.spaces["shared"].written.view(UNSIGNED[8 * word])
        for part in range(width // word):
            written[(position + part * word) // word] = 0
        machine.copies.pending.append(Copy(lanes, machine.copies.committed[lanes], position, values))

    return execute


def _commit(machine: Machine, mask: Mask) -> None:
    machine.copies.committed[machine.active(mask)] += 1


def _wait(machine: Machine, instruction: Instruction, mask: Mask, left: int, *, everything: bool) -> None:
    """All but the last `left` groups arrive, and with `everything` what belongs to no group yet."""
    waits = np.ones(machine.lanes, bool) if mask is None else mask
    remaining = []
    for copy in machine.copies.pending:
        committed = machine.copies.committed[copy.lanes] + everything
        done = waits[copy.lanes] & (copy.group < committed - left)
        if done.any():
            word = copy.values.itemsize
            lanes, position = copy.lanes[done], copy.position[done]
            check_race(machine, "shared", "write", position, word * copy.values.shape[1], lanes)
            for part in range(copy.values.shape[1]):
                machine.spaces["shared"].store(position + part * word, copy.values[done, part])
        if not done.all():
            remaining.append(Copy(*(field[~done] for field in copy)))
    machine.copies.pending[:] = remaining
