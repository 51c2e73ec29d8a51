"""PTX with one line changed, as a wrong kernel would have it: does a check see the change?

Only changes that a mistake could make are made, one at a time: a bound that is one too long, a rounding toward zero, a
guard that is missing, a jump that is always or never made, a neighbour's lane, an end that is taken for the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of a PTX text."""

    kind: str
    """A key of KINDS."""
    line: int
    """Counted from 1."""
    change: str
    """As `setp.lt.s32 %p1, %r2, %r3; -> setp.le.s32 %p1, %r2, %r3;`."""
    text: str
    """The whole PTX with the change in it."""


def _replaced(pattern: str, by: str | Callable[[re.Match[str]], str]) -> Callable[[str], list[str]]:
    compiled = re.compile(pattern)

    def change(line: str) -> list[str]:
        return [compiled.sub(by, line, count=1)] if compiled.search(line) else []

    return change


_CLOSER = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt"}
_OPPOSITE = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
_LANES = {"1": "2", "2": "1", "4": "2", "8": "4", "16": "8"}
_GUARD = r"^(\s*)@!?%p\d+\s+"

KINDS: dict[str, Callable[[str], list[str]]] = {
    "bound": _replaced(r"(setp\.)(lt|le|gt|ge)(\.[su]\d+)", lambda m: m[1] + _CLOSER[m[2]] + m[3]),
    "rounding": _replaced(r"(cvt\.)rn(\.(?:bf16x2|f16x2|bf16|f16)\.f32)", r"\1rz\2"),
    "guard": _replaced(_GUARD + r"(?=(?:ld|st)\.)", r"\1"),
    "jump": lambda line: [re.sub(_GUARD, r"\1", line), ""] if re.search(_GUARD + r"bra\b", line) else [],
    "lane": _replaced(r"(shfl\.sync\.bfly\.b32\s+[^,]+,[^,]+, )(1|2|4|8|16)(,)", lambda m: m[1] + _LANES[m[2]] + m[3]),
    "decode": _replaced(r"(sh[lr]\.\w+\s+[^,]+,[^,]+, )16;", r"\g<1>17;"),
    "end": _replaced(
        r"(setp\.)(lt|le|gt|ge)(\.f64\s.*0d3F(?:DFFFFFF0|E000000)000000)", lambda m: m[1] + _OPPOSITE[m[2]] + m[3]
    ),
}
"""What is changed, by name: a line -> what may stand in its place."""


def mutants(ptx: str, *kinds: str) -> Iterator[Mutant]:
    """Every mutant of a kernel's PTX.

    Args:
        ptx: One kernel.
        kinds: Keys of KINDS; all of them by default.
    """
    lines = ptx.split("\n")
    for at, line in enumerate(lines):
        for kind in kinds or KINDS:
            for other in KINDS[kind](line):
                changed = "\n".join([*lines[:at], other, *lines[at + 1 :]])
                yield Mutant(kind, at + 1, f"{line.strip()} -> {other.strip() or '(nothing)'}", changed)
