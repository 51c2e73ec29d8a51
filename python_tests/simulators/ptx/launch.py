"""Launches a kernel: all threads of a batch of blocks in lockstep, the smallest program counter first.

Threads that diverge wait at their next instruction; the group that is furthest behind runs until it branches or
reaches a label, where groups may join again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import (
    instructions_async,
    instructions_convert,
    instructions_data,
    instructions_float,
    instructions_matrix,
    instructions_memory,
    instructions_warp,
)
from .errors import Fault, NotSimulated
from .instructions import Execute, prepare
from .machine import Machine
from .memory import Buffer, Memory, Space
from .parse import DYNAMIC, Instruction, Kernel, Parameter
from .traffic import Traffic
from .types import type_named

FAMILIES = (
    instructions_async,
    instructions_convert,
    instructions_data,
    instructions_float,
    instructions_matrix,
    instructions_memory,
    instructions_warp,
)
"""Importing them fills the table of instructions."""

Argument = Buffer | bytes | int | float


@dataclass(frozen=True)
class Report:
    """What one launch did."""

    executed: NDArray
    """bool, one for each instruction of the kernel: whether its predicate held for a thread; see `Coverage`."""
    reached: NDArray
    """... whether a thread came to it."""
    traffic: Traffic


def launch(
    kernel: Kernel,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arguments: Sequence[Argument],
    memory: Memory,
    *,
    shared_bytes: int = 0,
    first: int | Sequence[int] = 0,
    check_races: bool = True,
    lanes: int = 8192,
    seed: int = 0,
    max_steps: int = 1 << 20,
) -> Report:
    """Runs every block of the grid.

    Args:
        kernel: from `parse`.
        grid: blocks in x, y, z.
        block: threads in x, y, z.
        arguments: one for each parameter; buffers pass their address, `bytes` a struct by value.
        memory: global memory, changed in place.
        shared_bytes: dynamic shared memory.
        first: the number of the first block in x, y, z: `grid` is then a piece of a larger grid, whose size (%nctaid)
            the kernel may not ask for.
        check_races: costs most of the time; without it only results and traffic are looked at.
        lanes: about how many threads run in lockstep; the batches of blocks come in random order.
        seed: of that order and of the order of atomics.
        max_steps: instructions a batch may execute, so that an endless loop ends.

    Raises:
        Fault: the kernel is wrong; Race, a Fault, names two accesses that nothing orders.
        NotSimulated: the PTX needs something that is not there.
    """
    grid, block, first = _three(grid), _three(block), _three(first, 0)
    if any(first) and any("%nctaid" in operand for i in kernel.code for operand in i.operands):
        raise NotSimulated(f"a piece of a grid for {kernel.name}, which reads %nctaid")
    threads, blocks = int(np.prod(block)), int(np.prod(grid))
    if kernel.required_threads not in (None, threads):
        raise Fault(f"{kernel.name} is launched with {threads} threads, it wants {kernel.required_threads}")
    generator = np.random.default_rng(seed)
    symbols, spans, shared_size = _place(kernel, shared_bytes)
    local_bytes = 0
    for variable in kernel.local:
        symbols[variable.name] = local_bytes = -(-local_bytes // 16) * 16
        local_bytes += variable.size
    parameters = _parameters(kernel, arguments)
    machine = Machine(
        kernel,
        memory,
        parameters,
        (grid, first),
        block,
        symbols,
        (spans, shared_size),
        local_bytes,
        check_races,
        generator,
    )
    executed, reached = np.zeros(len(kernel.code), bool), np.zeros(len(kernel.code), bool)
    together = max(1, lanes // machine.block_lanes)
    order = generator.permutation(blocks)
    with np.errstate(all="ignore"):
        prepared: list[Execute | None] = [None] * len(kernel.code)
        for start in range(0, blocks, together):
            machine.load_batch(order[start : start + together])
            _Batch(kernel, machine, executed, reached, prepared, max_steps).run()
    return Report(executed, reached, machine.traffic)


class _Batch:
    """The threads of some blocks on their way through the code."""

    def __init__(
        self,
        kernel: Kernel,
        machine: Machine,
        executed: NDArray,
        reached: NDArray,
        prepared: list[Execute | None],
        max_steps: int,
    ) -> None:
        self.kernel, self.machine, self.prepared = kernel, machine, prepared
        self.executed, self.reached = executed, reached
        self.joins = set(kernel.labels.values())
        self.alive = machine.exists.copy()
        self.waiting: dict[int, NDArray] = {0: self.alive.copy()}
        """Next instruction -> the threads that stand there."""
        self.barriers: dict[str, NDArray] = {}
        """Barrier -> where each thread waits at it, or -1."""
        self.steps_left = max_steps

    def run(self) -> None:
        """Until every thread has returned."""
        while self.waiting:
            at = min(self.waiting)
            self._advance(at, self.waiting.pop(at))
            if not self.waiting:
                self._release()
        stuck = {name: int((at >= 0).sum()) for name, at in self.barriers.items() if (at >= 0).any()}
        if stuck:
            raise Fault(f"deadlock in {self.kernel.name}: threads wait for ever at barriers {stuck}")

    def _advance(self, at: int, mask: NDArray) -> None:
        """Runs one group of threads up to a branch, a barrier or a label."""
        warps = int(mask.reshape(-1, 32).any(axis=1).sum())
        while True:
            if at >= len(self.kernel.code):
                self.alive &= ~mask
                return
            instruction = self.kernel.code[at]
            self.machine.traffic.instructions += warps
            self.machine.step += 1
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Fault(f"too many steps: an endless loop? {instruction}")
            self.reached[at] = True
            chosen = self._guarded(instruction, mask)
            if chosen.any():
                self.executed[at] = True
                if self._control(instruction, at, mask, chosen):
                    return
                self._execute(instruction, at, chosen)
            at += 1
            if at in self.joins:
                self._wait(at, mask)
                return

    def _guarded(self, instruction: Instruction, mask: NDArray) -> NDArray:
        """The threads whose predicate lets them execute it."""
        if instruction.guard is None:
            return mask
        predicate = self.machine.registers.get(instruction.guard)
        if predicate is None:
            raise Fault(f"the predicate was never set {instruction}")
        return mask & (~predicate if instruction.negated else predicate)

    def _execute(self, instruction: Instruction, at: int, chosen: NDArray) -> None:
        try:
            execute = self.prepared[at]
            if execute is None:
                execute = self.prepared[at] = prepare(instruction, self.machine)
            execute(None if chosen.all() else chosen)
        except (Fault, NotSimulated) as error:
            raise type(error)(f"{self.kernel.name}: {error} {instruction}") from None

    def _control(self, instruction: Instruction, at: int, mask: NDArray, chosen: NDArray) -> bool:
        """Branches, returns and barriers of a block; whether it was one."""
        opcode = instruction.opcode
        if opcode == "bra":
            self._wait(self.kernel.labels[instruction.operands[0]], chosen)
        elif opcode in ("ret", "exit"):
            self.alive &= ~chosen
        elif opcode == "trap":
            raise Fault(f"{self.kernel.name}: trap {instruction}")
        elif opcode in ("bar", "barrier") and "warp" not in instruction.modifiers:
            reduces = "red" in instruction.modifiers
            if not (reduces or "sync" in instruction.modifiers) or len(instruction.operands) != (3 if reduces else 1):
                raise NotSimulated(f"a barrier for a part of the block {instruction}")
            name = instruction.operands[1 if reduces else 0]
            places = self.barriers.setdefault(name, np.full(self.machine.lanes, -1))
            places[chosen] = at
        else:
            return False
        self._wait(at + 1, mask & ~chosen)
        self._release()
        return True

    def _wait(self, at: int, mask: NDArray) -> None:
        if mask.any():
            self.waiting[at] = self.waiting[at] | mask if at in self.waiting else mask

    def _release(self) -> None:
        """Lets the blocks go on whose threads have all arrived or returned."""
        shape = (-1, self.machine.block_lanes)
        for places in self.barriers.values():
            arrived = places >= 0
            if not arrived.any():
                continue
            whole = arrived.reshape(shape).any(axis=1) & ~(self.alive & ~arrived).reshape(shape).any(axis=1)
            go = arrived & np.repeat(whole, self.machine.block_lanes)
            if not go.any():
                continue
            self._check_one_barrier(places, go)
            self.machine.order.barrier[np.unique(self.machine.block_number[go])] = self.machine.step
            for at in np.unique(places[go]).tolist():
                if "red" in self.kernel.code[at].modifiers:
                    self._reduce(self.kernel.code[at], go & (places == at))
                self._wait(at + 1, go & (places == at))
            places[go] = -1

    def _reduce(self, instruction: Instruction, mask: NDArray) -> None:
        """`bar.red.popc.u32 d, 0, p` (or .and.pred, .or.pred): tells every thread about its block's predicates."""
        machine = self.machine
        yes = (machine.reader(instruction.operands[2], type_named("pred"))() & mask).reshape(-1, machine.block_lanes)
        count, all_ = yes.sum(axis=1), mask.reshape(yes.shape).sum(axis=1)
        results = {"popc": count.astype(np.uint32), "and": count == all_, "or": count > 0}
        result = next(results[word] for word in instruction.modifiers if word in results)
        type_ = type_named(instruction.modifiers[-1])
        machine.writer(instruction.operands[0], type_)(np.repeat(result, machine.block_lanes), mask)

    def _check_one_barrier(self, places: NDArray, go: NDArray) -> None:
        shape = (-1, self.machine.block_lanes)
        highest = np.where(go, places, -1).reshape(shape).max(axis=1)
        different = go & (places != np.repeat(highest, self.machine.block_lanes))
        if different.any():
            lane = int(different.argmax())
            one, other = (self.kernel.code[int(at)] for at in (places[lane], highest[lane // shape[1]]))
            raise Fault(
                f"{self.kernel.name}: threads of one block wait at two barriers {one} {other}; {self.machine.who(lane)}"
            )


def _three(size: int | Sequence[int], missing: int = 1) -> tuple[int, int, int]:
    """x, y and z."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    x, y, z = (*sizes, missing, missing)[:3]
    return x, y, z


def _place(kernel: Kernel, dynamic_bytes: int) -> tuple[dict[str, int], list[tuple[int, int]], int]:
    """Where the shared arrays lie: symbols, (start, size) of each, all bytes. Untouchable bytes separate them."""
    symbols, spans, end = {}, [], 0
    for variable in sorted(kernel.shared, key=lambda variable: variable.size == DYNAMIC):
        size = dynamic_bytes if variable.size == DYNAMIC else variable.size
        align = max(variable.align, 16)
        symbols[variable.name] = start = -(-(end + (64 if end else 0)) // align) * align
        spans.append((start, size))
        end = start + size
    return symbols, spans, end + 64


def _parameters(kernel: Kernel, arguments: Sequence[Argument]) -> Space:
    """The arguments as parameter memory."""
    if len(arguments) != len(kernel.parameters):
        raise Fault(f"{kernel.name} has {len(kernel.parameters)} parameters, {len(arguments)} arguments were given")
    size = max((p.offset + p.size for p in kernel.parameters), default=0)
    space = Space("param", size)
    space.allocate(0, size)
    for parameter, argument in zip(kernel.parameters, arguments, strict=True):
        data = _bytes(parameter, argument)
        space.data[parameter.offset : parameter.offset + parameter.size] = np.frombuffer(data, np.uint8)
    space.written[:] = 0xFF
    return space


def _bytes(parameter: Parameter, argument: Argument) -> bytes:
    if isinstance(argument, bytes):
        data = argument
    elif isinstance(argument, Buffer):
        data = struct.pack("<Q", argument.address)
    elif parameter.type.kind == "float":
        data = struct.pack({32: "<f", 64: "<d"}[parameter.type.bits], argument)
    else:
        data = (int(argument) & ((1 << 8 * parameter.size) - 1)).to_bytes(parameter.size, "little")
    if len(data) != parameter.size:
        raise Fault(f"parameter {parameter.name} has {parameter.size} bytes, the argument {len(data)}")
    return data
