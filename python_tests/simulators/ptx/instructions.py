"""The table of what each opcode does; the families register themselves in it.

A *pure* instruction is a function of its sources' values (`Pure`): it can be tested without any kernel. The others act
on the machine: memory, shuffles, barriers of a warp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import NDArray

from .errors import NotSimulated
from .machine import Machine, Mask
from .parse import Instruction, vector
from .types import Type, type_named

Execute = Callable[[Mask], None]


@dataclass(frozen=True)
class Pure:
    """What an instruction computes from the values of its sources."""

    sources: tuple[Type, ...]
    results: tuple[Type, ...]
    compute: Callable[..., NDArray | tuple[NDArray, ...]]
    """Arrays [lanes] or [1] of the sources' dtypes -> the same of the results'."""


PURE: dict[str, Callable[[Instruction], Pure]] = {}
EFFECTS: dict[str, Callable[[Instruction, Machine], Execute]] = {}


def pure(*opcodes: str) -> Callable[[Callable[[Instruction], Pure]], Callable[[Instruction], Pure]]:
    """Registers the description of pure instructions."""

    def register(describe: Callable[[Instruction], Pure]) -> Callable[[Instruction], Pure]:
        PURE.update(dict.fromkeys(opcodes, describe))
        return describe

    return register


def effect(
    *opcodes: str,
) -> Callable[[Callable[[Instruction, Machine], Execute]], Callable[[Instruction, Machine], Execute]]:
    """Registers instructions that act on the machine."""

    def register(prepare: Callable[[Instruction, Machine], Execute]) -> Callable[[Instruction, Machine], Execute]:
        EFFECTS.update(dict.fromkeys(opcodes, prepare))
        return prepare

    return register


def same(name: str, count: int) -> tuple[Type, ...]:
    """`count` sources of one type."""
    return (type_named(name),) * count


def only(instruction: Instruction, *known: str) -> set[str]:
    """The modifiers before the type, all of which must be known: nothing is ignored silently."""
    given = set(instruction.modifiers)
    unknown = given - set(known)
    if unknown:
        raise NotSimulated(f"modifier {', '.join(sorted('.' + name for name in unknown))}")
    return given


def prepare(instruction: Instruction, machine: Machine) -> Execute:
    """Binds an instruction to the machine's registers."""
    if instruction.opcode in EFFECTS:
        return EFFECTS[instruction.opcode](instruction, machine)
    if instruction.opcode not in PURE:
        raise NotSimulated(f"opcode {instruction.opcode}")
    what = PURE[instruction.opcode](instruction)
    targets = vector(instruction.operands[0])
    operands = [part for operand in instruction.operands[1:] for part in vector(operand)]
    if len(operands) != len(what.sources) or len(targets) > len(what.results):
        raise NotSimulated("these operands")
    read = [machine.reader(operand, type_) for operand, type_ in zip(operands, what.sources, strict=False)]
    write = [machine.writer(target, type_) for target, type_ in zip(targets, what.results, strict=False)]

    def execute(mask: Mask) -> None:
        values = what.compute(*(source() for source in read))
        for put, value in zip(write, values if isinstance(values, tuple) else (values,), strict=False):
            put(value, mask)

    return execute
