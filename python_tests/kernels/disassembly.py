"""What a compiled kernel uses of a multiprocessor, read from its machine code by the tools that come with Triton."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Use(NamedTuple):
    """What a kernel uses."""

    registers: int
    stack: int
    """Bytes of each thread's stack; arrays and spilled registers live there."""
    local: int
    spills: int
    """Instructions that access local memory."""
    widths: frozenset[int]
    """Bits of the global accesses in the innermost loops that have some, or in the whole kernel if none has."""


def missing_tool() -> str | None:
    """The first tool that is not there."""
    return next((name for name in ("cuobjdump", "nvdisasm") if not (TOOLS / name).exists()), None)


def use_of(cubin: bytes, folder: Path) -> Use:
    """Takes a compiled kernel apart; `folder` is for temporary files."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    resources = _run("cuobjdump", "-res-usage", str(file))
    numbers = [int(re.search(rf"\b{name}:(\d+)", resources)[1]) for name in ("REG", "STACK", "LOCAL")]
    code = _run("nvdisasm", "-c", str(file)).splitlines()
    return Use(*numbers, sum(bool(re.search(r"\b(LDL|STL)\b", line)) for line in code), _widths(code))


def _run(tool: str, *arguments: str) -> str:
    # Warnings about the file's form go to the standard error; the output is right.
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def _widths(code: list[str]) -> frozenset[int]:
    """A branch backwards closes a loop; those count that have accesses, but hold no smaller loop that has some."""
    labels = {found[1]: index for index, line in enumerate(code) if (found := re.match(r"(\.L_x_\d+):", line))}
    loops = []
    for end, line in enumerate(code):
        target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        if target and labels[target[1]] < end and _accesses(code[labels[target[1]] : end]):
            loops.append((labels[target[1]], end))
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    return frozenset().union(*(_accesses(code[start:end]) for start, end in inner or [(0, len(code))]))


def _accesses(code: list[str]) -> set[int]:
    found = re.findall(r"\b(?:LDGSTS|LDG|STG)((?:\.\w+)*)", "\n".join(code))
    return {next((int(part) for part in re.findall(r"\d+", kinds)), 32) for kinds in found}
