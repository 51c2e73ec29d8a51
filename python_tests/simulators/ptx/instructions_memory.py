"""Loads, stores, atomics and fences, each with its checks, its share of the traffic and its race detection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import Fault, NotSimulated, Race
from .instructions import Execute, effect, only
from .machine import Machine, Mask
from .memory import BadAccess
from .parse import Instruction, vector
from .types import UNSIGNED, type_named

_SPACES = ("global", "shared", "local", "param", "const")
_HINTS = (
    "nc",
    "volatile",
    *(f"L1::{hint}" for hint in ("evict_normal", "evict_first", "evict_last", "evict_unchanged", "no_allocate")),
    *(f"L2::{hint}" for hint in ("evict_normal", "evict_first", "evict_last", "cache_hint", "64B", "128B", "256B")),
    *("ca", "cg", "cs", "lu", "cv", "wb", "wt"),
)
_VECTORS = ("v2", "v4", "v8")


def _space(instruction: Instruction) -> str:
    words = {word.removesuffix("::cta") for word in instruction.modifiers}
    return next((space for space in _SPACES if space in words), "generic")


def check_written(machine: Machine, space: str, position: NDArray, width: int, lanes: NDArray) -> None:
    """Refuses to read what nobody wrote, and names the thread."""
    try:
        machine.spaces[space].check_written(position, width)
    except BadAccess as bad:
        raise Fault(f"{bad}; {machine.who(int(lanes[bad.access]))}") from None


def count_traffic(
    machine: Machine, instruction: Instruction, space: str, kind: str, position: NDArray, width: int, lanes: NDArray
) -> None:
    """Counts one instruction's accesses to global or shared memory."""
    warp = machine.warp[lanes]
    if space == "global":
        block = machine.block_number[lanes]
        machine.traffic.global_access(instruction.line, instruction.text, kind, position, width, warp, block)
    elif space == "shared":
        address = position - machine.block_in_batch[lanes] * machine.spaces["shared"].stride
        machine.traffic.shared_access(address, width, warp, machine.lane[lanes])


def check_race(machine: Machine, space: str, kind: str, position: NDArray, width: int, lanes: NDArray) -> None:
    """Refuses accesses that nothing orders after earlier ones."""
    shadow = machine.shadows.get(space)
    if shadow is None:
        return
    found = shadow.conflict(machine.order, kind, position, width, machine.thread[lanes], machine.step)
    if found:
        access, other = found
        where = _where(machine, space, position, int(access), lanes)
        raise Race(f"race: the {kind} by {machine.who(int(lanes[access]))} and {other} are not ordered; {where}")


def _access(
    machine: Machine, instruction: Instruction, space: str, kind: str, position: NDArray, width: int, lanes: NDArray
) -> None:
    count_traffic(machine, instruction, space, kind, position, width, lanes)
    check_race(machine, space, kind, position, width, lanes)


def _where(machine: Machine, space: str, position: NDArray, access: int, lanes: NDArray) -> str:
    stride = machine.spaces[space].stride
    return f"{space} memory, {machine.spaces[space].describe(int(position[access]) % stride)}"


@effect("ld", "ldu")
def _load(instruction: Instruction, machine: Machine) -> Execute:
    type_ = type_named(instruction.modifiers[-1])
    only(instruction, type_.name, *_SPACES, "shared::cta", "param::entry", *_HINTS, *_VECTORS)
    space_named = _space(instruction)
    targets = vector(instruction.operands[0])
    put = [machine.writer(target, type_) for target in targets]
    address, _ = machine.address(instruction.operands[1])
    each, width = type_.bytes, type_.bytes * len(targets)

    def execute(mask: Mask) -> None:
        lanes = machine.active(mask)
        space, position = machine.locate(space_named, address()[lanes], width, lanes)
        memory = machine.spaces[space]
        check_written(machine, space, position, width, lanes)
        _access(machine, instruction, space, "read", position, width, lanes)
        for i, write in enumerate(put):
            values = memory.load(position + i * each, each).view(type_.dtype)
            if mask is not None:
                full = np.zeros(machine.lanes, type_.dtype)
                full[lanes] = values
                values = full
            write(values, mask)

    return execute


@effect("st")
def _store(instruction: Instruction, machine: Machine) -> Execute:
    type_ = type_named(instruction.modifiers[-1])
    only(instruction, type_.name, *_SPACES, "shared::cta", *_HINTS, *_VECTORS)
    space_named = _space(instruction)
    address, _ = machine.address(instruction.operands[0])
    sources = [machine.reader(source, type_) for source in vector(instruction.operands[1])]
    each, width = type_.bytes, type_.bytes * len(sources)

    def execute(mask: Mask) -> None:
        lanes = machine.active(mask)
        space, position = machine.locate(space_named, address()[lanes], width, lanes)
        if space in ("param", "const"):
            raise Fault("store to constant memory")
        _access(machine, instruction, space, "write", position, width, lanes)
        memory = machine.spaces[space]
        differ = np.zeros(lanes.size, bool)
        for i, source in enumerate(sources):
            bits = np.broadcast_to(source(), machine.lanes)[lanes].view(type_.raw)
            memory.store(position + i * each, bits)
            differ |= memory.load(position + i * each, each) != bits
        if space in machine.shadows:
            _check_collision(machine, space, position, lanes, differ)

    return execute


def _check_collision(machine: Machine, space: str, position: NDArray, lanes: NDArray, differ: NDArray) -> None:
    """Threads of one instruction that store to one place: allowed within a block if they store the same."""
    last = machine.shadows[space].last_writer(position)
    bad = differ | (last // machine.block_lanes != machine.block_number[lanes])
    if bad.any():
        access = int(bad.argmax())
        other = f"block {last[access] // machine.block_lanes} thread {last[access] % machine.block_lanes}"
        where = _where(machine, space, position, access, lanes)
        raise Race(f"race: {machine.who(int(lanes[access]))} and {other} store to one place at once; {where}")


_ATOMIC = {
    "add": lambda old, a, b: old + a,
    "inc": lambda old, a, b: old * 0 if old >= a else old + a.dtype.type(1),
    "dec": lambda old, a, b: a if old == 0 or old > a else old - a.dtype.type(1),
    "exch": lambda old, a, b: a,
    "cas": lambda old, a, b: b if old == a else old,
    "min": lambda old, a, b: np.minimum(old, a),
    "max": lambda old, a, b: np.maximum(old, a),
    "and": lambda old, a, b: old & a,
    "or": lambda old, a, b: old | a,
    "xor": lambda old, a, b: old ^ a,
}


@effect("atom", "red")
def _atomic(instruction: Instruction, machine: Machine) -> Execute:
    """Thread after thread, in an order drawn at random, as the hardware's order is undefined."""
    type_ = type_named(instruction.modifiers[-1])
    semantics = ("relaxed", "acquire", "release", "acq_rel", "gpu", "sys", "cta")
    how = only(instruction, type_.name, *_SPACES, "shared::cta", *_ATOMIC, *semantics)
    if "cta" in how:
        raise NotSimulated("atomics at block scope")
    if type_.kind in ("bfloat", "pair") or type_.name == "f16":
        raise NotSimulated(f"atomics of .{type_.name}")
    function = _ATOMIC[next(word for word in instruction.modifiers if word in _ATOMIC)]
    acquires, releases = bool(how & {"acquire", "acq_rel"}), bool(how & {"release", "acq_rel"})
    operands = instruction.operands[1:] if instruction.opcode == "atom" else instruction.operands
    put = machine.writer(instruction.operands[0], type_) if instruction.opcode == "atom" else None
    address, _ = machine.address(operands[0])
    first = machine.reader(operands[1], type_)
    second = machine.reader(operands[2], type_) if len(operands) > 2 else first

    def execute(mask: Mask) -> None:
        lanes = machine.active(mask)
        space, position = machine.locate(_space(instruction), address()[lanes], type_.bytes, lanes)
        memory = machine.spaces[space]
        check_written(machine, space, position, type_.bytes, lanes)
        _access(machine, instruction, space, "atomic", position, type_.bytes, lanes)
        a, b = np.broadcast_to(first(), machine.lanes), np.broadcast_to(second(), machine.lanes)
        before = np.zeros(machine.lanes, type_.dtype)
        cells = memory.data.view(UNSIGNED[type_.bits]).view(type_.dtype)
        for i in machine.generator.permutation(lanes.size):
            lane, cell = lanes[i], position[i] // type_.bytes
            before[lane] = cells[cell]
            cells[cell] = function(cells[cell], a[lane], b[lane])
            if space == "global":
                thread = int(machine.thread[lane])
                machine.order.atomic(thread, int(cell), machine.step, acquires=acquires, releases=releases)
        if put is not None:
            put(before, mask)

    return execute


@effect("membar", "fence")
def _fence(instruction: Instruction, machine: Machine) -> Execute:
    how = only(instruction, "sc", "acq_rel", "gl", "gpu", "sys", "cta")
    if "cta" in how:
        return lambda mask: None  # orders nothing between blocks

    def execute(mask: Mask) -> None:
        machine.order.fence(machine.thread[machine.active(mask)], machine.step)

    return execute


@effect("prefetch", "prefetchu", "discard", "applypriority", "nanosleep", "griddepcontrol")
def _hint(instruction: Instruction, machine: Machine) -> Execute:
    """Changes no result. griddepcontrol would order two kernels, and here each one runs alone."""
    return lambda mask: None
