"""PTX text -> kernels made of instructions, each with its line in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import NotSimulated
from .types import Type, type_named

DYNAMIC = -1
"""The size of `extern __shared__` memory, known at launch only."""

_NAME = r"[\w$%.]+"
_LABEL = re.compile(rf"({_NAME}):(?!:)\s*")
_IGNORED = re.compile(r"\.(pragma|file|section|branchtargets|callprototype|noreturn)\b")
_GUARD = re.compile(r"@(!?)(%?[\w$]+)\s+")
_INSTRUCTION = re.compile(r"([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_VARIABLE = re.compile(
    r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?",
)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)\s*((?:\.\w+[^\n{]*\s*)*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.\w+\s+(?:\d+\s+)?)*([\w$]+)(?:\[(\d+)\])?\s*$",
)


@dataclass
class Instruction:
    """`@%p1 ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+16];` as parts."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    """As written; a vector stays one operand, braces included."""
    guard: str | None
    negated: bool
    line: int
    text: str

    def __str__(self) -> str:
        return f"[PTX line {self.line}: {self.text}]"


@dataclass
class Variable:
    """One array of shared or local memory."""

    name: str
    align: int
    size: int


@dataclass
class Parameter:
    """One kernel argument: where it lies in parameter memory."""

    name: str
    type: Type
    offset: int
    size: int


@dataclass
class Kernel:
    """One `.entry`."""

    name: str
    parameters: list[Parameter]
    required_threads: int | None
    """`.reqntid`, the only block size it may be launched with."""
    registers: dict[str, Type] = field(default_factory=dict)
    shared: list[Variable] = field(default_factory=list)
    local: list[Variable] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Kernel]:
    """All kernels of a PTX file, by name."""
    text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^\s*\.loc\s[^\n]*", "", text, flags=re.MULTILINE)
    first = _ENTRY.search(text)
    outer = [_variable(found) for found in _VARIABLE.finditer(text[: first.start()] if first else "")]
    kernels = {}
    for entry in _ENTRY.finditer(text):
        threads = re.search(r"\.reqntid\s+(\d+)", entry[3])
        kernel = Kernel(entry[1], _parameters(entry[2]), int(threads[1]) if threads else None)
        body, line = _body(text, entry.end()), text.count("\n", 0, entry.end()) + 1
        for statement, at in _statements(body, line):
            _add(kernel, statement, at)
        kernel.shared += [variable for variable in outer if variable.name in body]
        kernels[kernel.name] = kernel
    return kernels


def vector(operand: str) -> list[str]:
    """`{%f1, %f2}` or `%p1|%p2` -> the single operands."""
    return [part.strip() for part in re.split(r"[,|]", operand.strip("{} "))]


def _parameters(text: str) -> list[Parameter]:
    found, end = [], 0
    for declaration in filter(None, map(str.strip, text.split(","))):
        match = _PARAMETER.match(declaration)
        if match is None:
            raise NotSimulated(f"parameter {declaration!r}")
        type_ = type_named(match[2])
        size = type_.bytes * int(match[4] or 1)
        align = int(match[1] or type_.bytes)
        offset = -(-end // align) * align
        found.append(Parameter(match[3], type_, offset, size))
        end = offset + size
    return found


def _variable(match: re.Match[str]) -> Variable:
    unit = type_named(match[3]).bytes
    size = unit if match[5] is None else DYNAMIC if match[5] == "" else unit * int(match[5])
    return Variable(match[4], int(match[2] or unit), size)


def _body(text: str, start: int) -> str:
    """What stands between the kernel's braces."""
    depth, end = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start : end - 1]


def _statements(body: str, line: int) -> Iterator[tuple[str, int]]:
    """Each statement and the line where it starts."""
    for chunk in body.split(";"):
        lead = len(chunk) - len(chunk.lstrip())
        yield chunk.strip(), line + chunk.count("\n", 0, lead)
        line += chunk.count("\n")


def _add(kernel: Kernel, statement: str, line: int) -> None:
    """Reads one statement into the kernel."""
    while True:  # scopes and labels in front of it; names of inner scopes are taken to be the kernel's own
        label = _LABEL.match(statement)
        if statement.startswith(("{", "}")):
            rest = statement[1:]
        elif label:
            kernel.labels[label[1]] = len(kernel.code)
            rest = statement[label.end() :]
        else:
            break
        line += rest.count("\n", 0, len(rest) - len(rest.lstrip()))
        if label:
            line += label[0].count("\n")
        statement = rest.strip()
    if not statement or _IGNORED.match(statement):
        return
    if statement.startswith(".reg"):
        _declare(kernel, statement)
        return
    variable = _VARIABLE.match(statement)
    if variable:
        (kernel.shared if variable[1] == "shared" else kernel.local).append(_variable(variable))
        return
    kernel.code.append(_instruction(statement, line))


def _declare(kernel: Kernel, statement: str) -> None:
    """`.reg .b32 %r<5>, %other`."""
    match = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.DOTALL)
    if match is None:
        raise NotSimulated(f"declaration {statement!r}")
    type_ = type_named(match[1])
    for name in map(str.strip, match[2].split(",")):
        many = re.match(r"(%?[\w$]+)<(\d+)>", name)
        for register in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]:
            if kernel.registers.setdefault(register, type_).bits != type_.bits:
                raise NotSimulated(f"register {register} is declared with two sizes, in two scopes")


def _instruction(statement: str, line: int) -> Instruction:
    text = " ".join(statement.split())
    guard = _GUARD.match(statement)
    if guard:
        statement = statement[guard.end() :]
    match = _INSTRUCTION.match(statement)
    if match is None:
        raise NotSimulated(f"statement {text!r} [PTX line {line}]")
    opcode, *modifiers = match[1].split(".")
    operands = tuple(filter(None, (part.strip() for part in re.split(r",(?![^{\[]*[}\]])", match[2]))))
    return Instruction(
        opcode, tuple(modifiers), operands, guard[2] if guard else None, bool(guard and guard[1]), line, text
    )
