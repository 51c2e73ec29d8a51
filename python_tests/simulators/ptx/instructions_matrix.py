"""Tiles of matrices, and their product.

ldmatrix and stmatrix, with which Triton also rearranges values that are no matrices, move 8 x 8 tiles of 16 bits. Row r
of tile i lies at the address that lane 8 i + r gives. Lane l holds elements 2 (l % 4) and the next one of row l // 4 of
every tile, one tile a register; with `.trans` of column l // 4. mma.sync multiplies such tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import Fault, NotSimulated
from .floats import widen
from .instructions import Execute, effect, only
from .instructions_memory import check_race, check_written, count_traffic
from .machine import Machine, Mask, Reader
from .parse import Instruction, vector
from .types import type_named

_ROW = 16
"""Bytes of a row of a tile."""
_LANE = np.arange(32)


def check_whole_warps(mask: Mask) -> None:
    """Refuses an instruction for whole warps that only some threads of a warp execute."""
    if mask is not None and (mask.reshape(-1, 32).any(axis=1) != mask.reshape(-1, 32).all(axis=1)).any():
        raise Fault("only a part of a warp executes an instruction for whole warps")


@effect("ldmatrix", "stmatrix")
def _move_tiles(instruction: Instruction, machine: Machine) -> Execute:
    how = only(instruction, "sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16")
    tiles = next(int(word[1]) for word in ("x1", "x2", "x4") if word in how)
    loads = instruction.opcode == "ldmatrix"
    registers, place = instruction.operands if loads else instruction.operands[::-1]
    address, _ = machine.address(place)
    b32 = type_named("b32")
    put = [machine.writer(name, b32) for name in vector(registers)] if loads else []
    get = [] if loads else [machine.reader(name, b32) for name in vector(registers)]
    row, column = _LANE // 4, 2 * (_LANE % 4)
    first, second = ((column, row), (column + 1, row)) if "trans" in how else ((row, column), (row, column + 1))

    def locate(mask: Mask) -> tuple[NDArray, NDArray, NDArray]:
        """The lanes that take part, those that give addresses, and where their rows lie."""
        check_whole_warps(mask)
        lanes = machine.active(mask)
        givers = lanes[machine.lane[lanes] < 8 * tiles]
        return lanes, givers, machine.locate("shared", address()[givers], _ROW, givers)[1]

    def races(kind: str, lanes: NDArray, position: NDArray) -> None:
        """Each element belongs to the lane that holds it, not to the one that gives the address."""
        rows_at = position.reshape(-1, tiles, 8)
        for tile in range(tiles):
            for r, c in (first, second):
                check_race(machine, "shared", kind, (rows_at[:, tile, r] + 2 * c).reshape(-1), 2, lanes)

    def load(mask: Mask) -> None:
        lanes, givers, position = locate(mask)
        check_written(machine, "shared", position, _ROW, givers)
        count_traffic(machine, instruction, "shared", "read", position, _ROW, givers)
        races("read", lanes, position)
        rows = machine.spaces["shared"].load((position[:, None] + np.arange(0, _ROW, 2)).reshape(-1), 2)
        values = rows.reshape(-1, tiles, 8, 8).astype(np.uint32)
        for tile, write in enumerate(put):
            low, high = (values[:, tile, r, c] for r, c in (first, second))
            full = np.zeros(machine.lanes, np.uint32)
            full[lanes] = (low | high << np.uint32(16)).reshape(-1)
            write(full, mask)

    def store(mask: Mask) -> None:
        lanes, givers, position = locate(mask)
        count_traffic(machine, instruction, "shared", "write", position, _ROW, givers)
        races("write", lanes, position)
        values = np.zeros((lanes.size // 32, tiles, 8, 8), np.uint16)
        for tile, read in enumerate(get):
            pair = np.broadcast_to(read(), machine.lanes)[lanes].reshape(-1, 32)
            values[:, tile, first[0], first[1]] = pair.astype(np.uint16)
            values[:, tile, second[0], second[1]] = (pair >> np.uint32(16)).astype(np.uint16)
        everywhere = (position[:, None] + np.arange(0, _ROW, 2)).reshape(-1)
        machine.spaces["shared"].store(everywhere, values.reshape(-1))

    return load if loads else store


@effect("mma")
def _multiply_tiles(instruction: Instruction, machine: Machine) -> Execute:
    """A 16 x 16 by 16 x 8 product of 16 bits is added to float32; rounded once here, in some order on a GPU."""
    how = only(instruction, "sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16", "f16")
    name = "bf16" if "bf16" in how else "f16"
    if instruction.modifiers[-4:] != ("f32", name, name, "f32"):
        raise NotSimulated("a product of these formats")
    b32, f32 = type_named("b32"), type_named("f32")
    put = [machine.writer(register, f32) for register in vector(instruction.operands[0])]
    left, right = ([machine.reader(r, b32) for r in vector(operand)] for operand in instruction.operands[1:3])
    added = [machine.reader(register, f32) for register in vector(instruction.operands[3])]
    row, column = _LANE // 4, 2 * (_LANE % 4)

    def numbers(source: Reader, lanes: NDArray) -> tuple[NDArray, NDArray]:
        """The lower and the upper number of a register, [warps, 32] each."""
        bits = np.broadcast_to(source(), machine.lanes)[lanes].reshape(-1, 32)
        low, high = bits.astype(np.uint16), (bits >> np.uint32(16)).astype(np.uint16)
        return widen(low, name).astype(np.float64), widen(high, name).astype(np.float64)

    def execute(mask: Mask) -> None:
        check_whole_warps(mask)
        lanes = machine.active(mask)
        a, b = np.zeros((lanes.size // 32, 16, 16)), np.zeros((lanes.size // 32, 16, 8))
        for i, source in enumerate(left):
            low, high = numbers(source, lanes)
            a[:, row + 8 * (i % 2), column + 8 * (i // 2)] = low
            a[:, row + 8 * (i % 2), column + 8 * (i // 2) + 1] = high
        for i, source in enumerate(right):
            low, high = numbers(source, lanes)
            b[:, column + 8 * i, row], b[:, column + 8 * i + 1, row] = low, high
        product = a @ b
        for i, (source, write) in enumerate(zip(added, put, strict=True)):
            before = np.broadcast_to(source(), machine.lanes)[lanes].reshape(-1, 32)
            sums = (before + product[:, row + 8 * (i // 2), column + i % 2]).astype(np.float32)
            full = np.zeros(machine.lanes, np.float32)
            full[lanes] = sums.reshape(-1)
            write(full, mask)

    return execute
