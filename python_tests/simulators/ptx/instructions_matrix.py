"""ldmatrix and stmatrix, with which Triton also rearranges values that are no matrices: 8 x 8 tiles of 16 bits.

Row r of tile i lies at the address that lane 8 i + r gives. Lane l holds elements 2 (l % 4) and the next one of row
l // 4 of every tile, one tile a register; with `.trans` of column l // 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import Fault
from .instructions import Execute, effect, only
from .instructions_memory import check_race, check_written, count_traffic
from .machine import Machine, Mask
from .parse import Instruction, vector
from .types import type_named

_ROW = 16
"""Bytes of a row of a tile."""
_LANE = np.arange(32)


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
        if mask is not None and (mask.reshape(-1, 32).any(axis=1) != mask.reshape(-1, 32).all(axis=1)).any():
            raise Fault("only a part of a warp executes an instruction for whole warps")
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
