"""Shuffles, votes and reductions of a warp; lanes that should take part but do not are faults."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import Fault, NotSimulated
from .instructions import Execute, effect, only
from .machine import Machine, Mask
from .parse import Instruction, vector
from .types import type_named

_B32, _U32, _PRED = type_named("b32"), type_named("u32"), type_named("pred")
_EVERY_LANE = np.uint32(0xFFFFFFFF)


def _active_bits(machine: Machine, mask: Mask) -> NDArray:
    """For each lane the bits of its warp's active lanes."""
    active = np.ones(machine.lanes, bool) if mask is None else mask
    bits = np.packbits(active.reshape(-1, 32), axis=1, bitorder="little").view(np.uint32).reshape(-1)
    return np.repeat(bits, 32)


def _members(machine: Machine, named: NDArray, mask: Mask) -> NDArray:
    """The lanes that the instruction names, after the check that all of them execute it."""
    active = _active_bits(machine, mask)
    named = np.broadcast_to(named, machine.lanes)
    lanes = machine.active(mask)
    absent = (named & ~active)[lanes] != 0
    if absent.any():
        lane = int(lanes[absent.argmax()])
        raise Fault(
            f"the mask {named[lane]:#010x} names lanes that do not take part (active: {active[lane]:#010x}); "
            f"{machine.who(lane)}"
        )
    itself = (named[lanes] >> machine.lane[lanes].astype(np.uint32) & np.uint32(1)) == 0
    if itself.any():
        raise Fault(f"a thread is not in the mask that it gives; {machine.who(int(lanes[itself.argmax()]))}")
    return named


@effect("shfl")
def _shuffle(instruction: Instruction, machine: Machine) -> Execute:
    how = only(instruction, "sync", "up", "down", "bfly", "idx", "b32")
    if "sync" not in how:
        raise NotSimulated("shfl without .sync")
    targets = vector(instruction.operands[0])
    put = machine.writer(targets[0], _B32)
    put_valid = machine.writer(targets[1], _PRED) if len(targets) > 1 else None
    value, by, clamp, named = (machine.reader(operand, _B32) for operand in instruction.operands[1:5])

    def execute(mask: Mask) -> None:
        members = _members(machine, named(), mask)
        lane, lanes = machine.lane, machine.active(mask)
        step, limits = by().astype(np.int64) & 31, clamp().astype(np.int64)
        segment = limits >> 8 & 31
        first, last = lane & segment, lane & segment | limits & ~segment & 31
        if "up" in how:
            source = lane - step
            valid = source >= last
        else:
            source = lane + step if "down" in how else lane ^ step if "bfly" in how else first | step & ~segment
            valid = source <= last
        partner = np.arange(machine.lanes) - lane + np.where(valid, source, lane)
        unnamed = (members >> (partner & 31).astype(np.uint32) & np.uint32(1))[lanes] == 0
        if unnamed.any():
            who = machine.who(int(lanes[unnamed.argmax()]))
            raise Fault(f"the shuffle reads a lane that the mask does not name; {who}")
        put(np.broadcast_to(value(), machine.lanes)[partner], mask)
        if put_valid is not None:
            put_valid(np.broadcast_to(valid, machine.lanes), mask)

    return execute


@effect("vote")
def _vote(instruction: Instruction, machine: Machine) -> Execute:
    how = only(instruction, "sync", "ballot", "any", "all", "uni", "b32", "pred")
    put = machine.writer(instruction.operands[0], _B32 if "ballot" in how else _PRED)
    choice, named = machine.reader(instruction.operands[1], _PRED), machine.reader(instruction.operands[2], _U32)

    def execute(mask: Mask) -> None:
        members = _members(machine, named(), mask)
        active = np.ones(machine.lanes, bool) if mask is None else mask
        yes = _active_bits(machine, active & choice()) & members
        if "ballot" in how:
            put(yes, mask)
        else:
            put(yes != 0 if "any" in how else yes == members if "all" in how else (yes == 0) | (yes == members), mask)

    return execute


@effect("redux")
def _reduce(instruction: Instruction, machine: Machine) -> Execute:
    name = instruction.modifiers[-1]
    functions = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    how = only(instruction, "sync", name, *functions)
    type_ = type_named(name)
    function = functions[(how - {"sync", name}).pop()]
    put = machine.writer(instruction.operands[0], type_)
    value, named = machine.reader(instruction.operands[1], type_), machine.reader(instruction.operands[2], _U32)
    if type_.kind == "float":
        raise NotSimulated(f"redux of .{name}")

    def execute(mask: Mask) -> None:
        if (_members(machine, named(), mask)[machine.active(mask)] != _EVERY_LANE).any():
            raise NotSimulated("redux of a part of a warp")
        values = np.broadcast_to(value(), machine.lanes).reshape(-1, 32)
        put(np.repeat(function.reduce(values, axis=1, dtype=type_.dtype), 32), mask)

    return execute


@effect("activemask")
def _active_mask(instruction: Instruction, machine: Machine) -> Execute:
    put = machine.writer(instruction.operands[0], _B32)
    return lambda mask: put(_active_bits(machine, mask), mask)


@effect("elect")
def _elect(instruction: Instruction, machine: Machine) -> Execute:
    """Chooses the lowest of the named lanes."""
    only(instruction, "sync")
    targets = vector(instruction.operands[0])
    put, put_chosen = machine.writer(targets[0], _B32), machine.writer(targets[1], _PRED)
    named = machine.reader(instruction.operands[1], _U32)

    def execute(mask: Mask) -> None:
        members = _members(machine, named(), mask)
        lowest = members & (~members + np.uint32(1))
        leader = np.log2(np.maximum(lowest, 1)).astype(np.uint32)
        put(leader, mask)
        put_chosen(leader == machine.lane, mask)

    return execute


@effect("bar", "barrier")
def _warp_barrier(instruction: Instruction, machine: Machine) -> Execute:
    """`bar.warp.sync`; the barriers of a block are the launch's business."""
    only(instruction, "warp", "sync")
    named = machine.reader(instruction.operands[0], _U32)

    def execute(mask: Mask) -> None:
        members = _members(machine, named(), mask)
        lanes = machine.active(mask)
        exists = _active_bits(machine, machine.exists)
        whole = lanes[((members | ~exists) == _EVERY_LANE)[lanes]]
        machine.order.warp[machine.warp[whole]] = machine.step

    return execute
