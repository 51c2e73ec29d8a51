"""The threads of one batch of blocks: their registers, special registers and memories, all as numpy arrays.

Lane i of every array is thread i of the batch; blocks are padded to whole warps. A mask is a bool array of lanes, or
None for all of them. Register arrays are never changed in place, so they may be shared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import Fault, NotSimulated
from .memory import GLOBAL_BASE, WINDOWS, BadAccess, Memory, Space
from .parse import Kernel
from .races import Order, Shadow
from .traffic import Traffic
from .types import SIGNED, UNSIGNED, Type, type_named

Mask = NDArray | None


class Copy(NamedTuple):
    """The asynchronous copies of one instruction that are on their way."""

    lanes: NDArray
    group: NDArray
    """For each lane the number of the group that it belongs to."""
    position: NDArray
    """In shared memory."""
    values: NDArray
    """[lanes, words]"""


class Copies(NamedTuple):
    """Asynchronous copies from global to shared memory."""

    committed: NDArray
    """int64 [lanes]: groups that each thread has closed."""
    pending: list[Copy]


Reader = Callable[[], NDArray]
Writer = Callable[[NDArray, Mask], None]

UNWRITTEN = 0xA5A5A5A5A5A5A5A5
"""What a register holds before it is written."""
_ACCESSES = ("ld", "st", "atom", "red", "ldmatrix", "stmatrix")
_SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.[xyz]$|%(laneid|warpid|nwarpid)$|%lanemask_(eq|lt|le|gt|ge)$")


class Machine:
    """One launch's state; `load_batch` fills it with the threads of some blocks."""

    def __init__(
        self,
        kernel: Kernel,
        memory: Memory,
        parameters: Space,
        grid: tuple[tuple[int, int, int], tuple[int, int, int]],
        block: tuple[int, int, int],
        symbols: dict[str, int],
        shared: tuple[list[tuple[int, int]], int],
        local_bytes: int,
        check_races: bool,
        generator: np.random.Generator,
    ) -> None:
        self.kernel, self.memory, self.block = kernel, memory, block
        self.grid, self.first = grid
        self.generator = generator
        """Chooses where the hardware's order is undefined."""
        self.block_threads = int(np.prod(block))
        self.block_lanes = -(-self.block_threads // 32) * 32
        self.symbols = {**symbols, **{p.name: p.offset for p in kernel.parameters}}
        """Addresses of arrays within their space and of parameters."""
        self.traffic = Traffic(memory.stride)
        self.step = 0
        self.check_races = check_races
        self.order = Order(int(np.prod(self.grid)), self.block_lanes)
        unit = min(
            (
                _unit(i.modifiers)
                for i in kernel.code
                if i.opcode in ("ld", "st", "atom", "red", "ldmatrix", "stmatrix")
            ),
            default=1,
        )
        self._unit = unit
        self.shadows: dict[str, Shadow] = {}
        if check_races:
            self.shadows["global"] = Shadow(memory.stride, unit)
        self.spaces = {"global": memory, "param": parameters, "const": parameters}
        self._shared, self._local_bytes = shared, local_bytes

    def load_batch(self, blocks: NDArray) -> None:
        """Starts the threads of these blocks; registers and shared memory are new."""
        count, lanes = len(blocks), self.block_lanes
        self.lanes = count * lanes
        thread = np.tile(np.arange(lanes, dtype=np.int64), count)
        self.block_number = np.repeat(blocks.astype(np.int64), lanes)
        self.block_in_batch = np.repeat(np.arange(count), lanes)
        self.thread_in_block = thread
        self.exists = thread < self.block_threads
        self.lane = thread & 31
        self.warp = self.block_number * (lanes // 32) + thread // 32
        self.thread = self.block_number * lanes + thread
        self._special = self._special_registers(thread, self.block_number)
        self.registers: dict[str, NDArray] = {}
        shared = Space("shared", self._shared[1], count)
        for start, size in self._shared[0]:
            shared.allocate(start, size)
        local = Space("local", self._local_bytes, self.lanes)
        local.allocate(0, self._local_bytes)
        self.spaces |= {"shared": shared, "local": local}
        self.copies = Copies(np.zeros(self.lanes, np.int64), [])
        if self.check_races:
            self.shadows["shared"] = Shadow(shared.data.size, self._unit)

    def _special_registers(self, thread: NDArray, block: NDArray) -> dict[str, NDArray]:
        lane = (thread & 31).astype(np.uint64)
        one = np.uint64(1)
        below = (one << lane) - one
        special = {
            "%laneid": lane,
            "%warpid": thread // 32,
            "%nwarpid": np.full_like(thread, self.block_lanes // 32),
            "%lanemask_eq": one << lane,
            "%lanemask_lt": below,
            "%lanemask_le": below | (one << lane),
            "%lanemask_ge": ~below,
            "%lanemask_gt": ~(below | (one << lane)),
        }
        for axis, size, inner in zip("xyz", self.block, (1, self.block[0], self.block[0] * self.block[1]), strict=True):
            special[f"%tid.{axis}"], special[f"%ntid.{axis}"] = thread // inner % size, np.full_like(thread, size)
        inners = 1, self.grid[0], self.grid[0] * self.grid[1]
        for axis, size, inner, first in zip("xyz", self.grid, inners, self.first, strict=True):
            special[f"%ctaid.{axis}"] = first + block // inner % size
            special[f"%nctaid.{axis}"] = np.full_like(block, size)
        return {name: values.astype(np.uint32) for name, values in special.items()}

    def active(self, mask: Mask) -> NDArray:
        """The numbers of the lanes that take part."""
        return np.arange(self.lanes) if mask is None else np.flatnonzero(mask)

    def reader(self, operand: str, type_: Type) -> Reader:
        """A function that gives the operand's values, [lanes] or [1] for constants, as `type_`."""
        if operand.startswith("!"):
            inner = self.reader(operand[1:], type_)
            return lambda: ~inner()
        register = self.kernel.registers.get(operand)
        if register is not None:
            if register.bits == type_.bits:
                return lambda: self._register(operand, register).view(type_.dtype)
            if register.bits < type_.bits:
                raise NotSimulated(f"{operand} of {register.bits} bits is read as .{type_.name}")
            return lambda: self._register(operand, register).astype(type_.raw).view(type_.dtype)
        if _SPECIAL.match(operand):
            return lambda: self._special[operand].astype(type_.raw).view(type_.dtype)
        constant = self._constant(operand, type_)
        return lambda: constant

    def writer(self, operand: str, type_: Type) -> Writer:
        """A function that puts values of `type_` into the register, for the lanes of a mask."""
        if operand == "_":
            return lambda values, mask: None
        register = self.kernel.registers.get(operand)
        if register is None or register.bits < type_.bits:
            raise NotSimulated(f"destination {operand} for .{type_.name}")

        def write(values: NDArray, mask: Mask) -> None:
            if values.dtype != type_.dtype:
                raise TypeError(f"simulator error: {values.dtype} for .{type_.name}")
            if register.bits > type_.bits:  # a load or conversion into a wider register extends
                values = values.astype(SIGNED[register.bits] if type_.kind == "signed" else register.raw)
            raw = values.view(register.raw)
            if mask is not None:
                raw = np.where(mask, raw, self._register(operand, register))
            self.registers[operand] = raw if raw.size == self.lanes else np.broadcast_to(raw, self.lanes).copy()

        return write

    def address(self, operand: str) -> tuple[Reader, str | None]:
        """`[%rd1+16]` -> a function that gives int64 [lanes], and the name it starts from if that is no register."""
        match = re.match(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]$", operand.replace("+-", "+ -"))
        if match is None:
            raise NotSimulated(f"address {operand!r}")
        base, offset = match[1], int(match[2] or "0", 0)
        register = self.kernel.registers.get(base)
        if register is not None:
            return lambda: self._register(base, register).astype(np.uint64).view(np.int64) + offset, None
        start = self.symbols[base] if base in self.symbols else int(base, 0)
        return lambda: np.full(self.lanes, start + offset, np.int64), base

    def locate(self, space: str, address: NDArray, width: int, lanes: NDArray) -> tuple[str, NDArray]:
        """Resolves generic addresses and checks them; gives the space and positions in its data."""
        if space == "generic":
            space, address = _window(address)
        owner = {"shared": self.block_in_batch, "local": np.arange(self.lanes)}.get(space)
        if space == "global":
            address = address - GLOBAL_BASE
        try:
            return space, self.spaces[space].locate(address, width, 0 if owner is None else owner[lanes])
        except BadAccess as bad:
            raise Fault(f"{bad}; {self.who(lanes[bad.access])}") from None

    def who(self, lane: int) -> str:
        """Names a thread for a message."""
        return f"block {self.block_number[lane]} thread {self.thread_in_block[lane]}"

    def _register(self, name: str, type_: Type) -> NDArray:
        values = self.registers.get(name)
        if values is None:
            fill = False if type_.kind == "predicate" else UNWRITTEN & ((1 << type_.bits) - 1)
            values = self.registers[name] = np.full(self.lanes, fill, type_.raw)
        return values

    def _constant(self, operand: str, type_: Type) -> NDArray:
        """An immediate or an address -> [1] of `type_`."""
        real = re.match(r"0([fd])([0-9a-fA-F]+)$", operand)
        if real:
            width = 32 if real[1] == "f" else 64
            bits = int(real[2], 16)
            if type_.bits != width and type_.kind == "float":
                value = np.array([bits], UNSIGNED[width]).view(np.dtype(f"f{width // 8}"))
                return value.astype(type_.dtype)
        elif operand in self.symbols:
            bits = self.symbols[operand]
        elif operand == "WARP_SZ":
            bits = 32
        else:
            try:
                bits = int(operand.rstrip("U"), 0)
            except ValueError:
                raise NotSimulated(f"operand {operand!r}") from None
        if type_.kind == "predicate":
            return np.array([bool(bits)])
        return np.array([bits & ((1 << type_.bits) - 1)], type_.raw).view(type_.dtype)


def _window(address: NDArray) -> tuple[str, NDArray]:
    """Generic addresses -> their state space and the addresses within it."""
    starts = {"global": GLOBAL_BASE, **WINDOWS}
    for space, start in starts.items():
        if address[0] >= start:
            end = start + (1 << 44) if space != "global" else None
            if (address < start).any() or (end is not None and (address >= end).any()):
                raise Fault("one instruction's generic addresses lie in several state spaces")
            return space, address if space == "global" else address - start
    raise Fault(f"generic address {int(address[0]):#x} lies in no state space")


def _unit(modifiers: tuple[str, ...]) -> int:
    """The bytes that this access's type has; alignment makes every access a multiple of it."""
    return max(type_named(modifiers[-1]).bytes, 1)
