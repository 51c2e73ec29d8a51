"""Moves, selections, comparisons and address conversions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import NotSimulated
from .floats import bfloat16_to_float32, flush
from .instructions import Pure, only, pure, same
from .memory import WINDOWS
from .parse import Instruction, vector
from .types import type_named


@pure("mov")
def _move(instruction: Instruction) -> Pure:
    """Also packs `{a, b}` into a register and takes one apart; the first is the lowest."""
    name = instruction.modifiers[-1]
    only(instruction, name)
    target, source = (len(vector(operand)) for operand in instruction.operands)
    type_ = type_named(name)
    if target == source == 1:
        return Pure((type_,), (type_,), lambda a: a)
    width = type_.bits // max(target, source)
    part = same(f"b{width}", max(target, source))
    if target > 1:
        steps = [type_.dtype.type(width * i) for i in range(target)]
        return Pure((type_,), part, lambda a: tuple((a >> by).astype(part[0].dtype) for by in steps))

    def pack(*parts: NDArray) -> NDArray:
        result = np.zeros(1, type_.dtype)
        for i, value in enumerate(parts):
            result = result | value.astype(type_.dtype) << type_.dtype.type(width * i)
        return result

    return Pure(part, (type_,), pack)


@pure("selp")
def _select(instruction: Instruction) -> Pure:
    name = instruction.modifiers[-1]
    only(instruction, name)
    return Pure((*same(name, 2), type_named("pred")), same(name, 1), lambda a, b, choice: np.where(choice, a, b))


@pure("cvta")
def _address(instruction: Instruction) -> Pure:
    how = only(instruction, "to", "global", "u64", "const", *WINDOWS)
    space = (how - {"to", "u64"}).pop()
    start = np.uint64(WINDOWS.get("param" if space == "const" else space, 0))
    return Pure(same("u64", 1), same("u64", 1), (lambda a: a - start) if "to" in how else (lambda a: a + start))


@pure("createpolicy")
def _cache_policy(instruction: Instruction) -> Pure:
    """A hint to the L2, which is infinite here."""
    return Pure((), same("b64", 1), lambda: np.zeros(1, np.uint64))


_COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


@pure("setp")
def _compare(instruction: Instruction) -> Pure:
    """`setp.lt.and.f32 p|q, a, b, c`: p = (a < b) and c, q = not (a < b) and c."""
    name, test = instruction.modifiers[-1], instruction.modifiers[0]
    how = only(instruction, name, test, *_COMBINE, "ftz")
    type_ = type_named(name)
    floating = type_.kind in ("float", "bfloat")
    combine = next((_COMBINE[word] for word in instruction.modifiers[1:-1] if word in _COMBINE), None)
    test = _UNSIGNED_NAMES.get(test, test)
    if type_.kind == "pair" or (test not in _COMPARE and not floating):
        raise NotSimulated(f"setp.{test}.{name}")

    def compare(a: NDArray, b: NDArray) -> NDArray:
        if not floating:
            return _COMPARE[test](a, b)
        unordered = np.isnan(a) | np.isnan(b)
        if test == "num":
            return ~unordered
        if test == "nan":
            return unordered
        if test.endswith("u") and test[:-1] in _COMPARE:
            return _COMPARE[test[:-1]](a, b) | unordered
        return _COMPARE[test](a, b) & ~unordered

    def compute(a: NDArray, b: NDArray, *other: NDArray) -> tuple[NDArray, NDArray]:
        if type_.kind == "bfloat":
            a, b = bfloat16_to_float32(a), bfloat16_to_float32(b)
        if "ftz" in how:
            a, b = flush(a), flush(b)
        yes = compare(a, b)
        if combine is None:
            return yes, ~yes
        return combine(yes, other[0]), combine(~yes, other[0])

    sources = (type_, type_, *(same("pred", 1) if combine else ()))
    return Pure(sources, same("pred", 2), compute)
