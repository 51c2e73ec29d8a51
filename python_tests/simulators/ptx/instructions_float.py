"""Floating-point arithmetic of every width; add, mul and the like of integers are passed on to their family.

float32 and float64 use numpy's own IEEE arithmetic. 16-bit sums and products are exact enough in float32 for one more
rounding; fused multiply-adds are rounded once (see floats.py). The `.approx` and `.full` functions, which a GPU gets
wrong by a few units in the last place, are correctly rounded here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import NotSimulated
from .floats import flush, fused_multiply_add, fused_multiply_add_float64, narrow, widen
from .instructions import Pure, only, pure, same
from .instructions_integer import integer_arithmetic
from .parse import Instruction
from .types import Type, type_named

_ROUNDED = ("rn", "ftz", "sat", "approx", "full", "NaN")


def _lesser(a: NDArray, b: NDArray) -> NDArray:
    """The smaller one; a number wins over NaN, and -0 is below +0."""
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), a, b), np.fmin(a, b))


def _greater(a: NDArray, b: NDArray) -> NDArray:
    return np.where((a == 0) & (b == 0), np.where(np.signbit(a), b, a), np.fmax(a, b))


def _of_three(function: Callable[..., NDArray]) -> Callable[..., NDArray]:
    return lambda a, b, c: function(function(a, b), c)


def _in_float64(function: Callable[[NDArray], NDArray]) -> Callable[[NDArray], NDArray]:
    return lambda a: function(a.astype(np.float64))


FUNCTIONS: dict[str, tuple[int, Callable[..., NDArray]]] = {
    "add": (2, np.add),
    "sub": (2, np.subtract),
    "mul": (2, np.multiply),
    "div": (2, np.divide),
    "fma": (3, fused_multiply_add),
    "mad": (3, fused_multiply_add),
    "neg": (1, np.negative),
    "abs": (1, np.abs),
    "min": (2, _lesser),
    "max": (2, _greater),
    "copysign": (2, lambda sign, value: np.copysign(value, sign)),
    "rcp": (1, _in_float64(lambda a: 1 / a)),
    "sqrt": (1, _in_float64(np.sqrt)),
    "rsqrt": (1, _in_float64(lambda a: 1 / np.sqrt(a))),
    "ex2": (1, _in_float64(np.exp2)),
    "lg2": (1, _in_float64(np.log2)),
    "sin": (1, _in_float64(np.sin)),
    "cos": (1, _in_float64(np.cos)),
    "tanh": (1, _in_float64(np.tanh)),
}


@pure(*FUNCTIONS, "rem")
def arithmetic(instruction: Instruction) -> Pure:
    """Chooses the family by the type."""
    type_ = type_named(instruction.modifiers[-1])
    if type_.kind in ("signed", "unsigned", "bits"):
        return integer_arithmetic(instruction)
    if instruction.modifiers[-2:-1] == ("f32",):
        return _mixed(instruction)
    how = only(instruction, type_.name, *_ROUNDED)
    if instruction.opcode not in FUNCTIONS:
        raise NotSimulated(f"{instruction.opcode}.{type_.name}")
    count, function = FUNCTIONS[instruction.opcode]
    if "NaN" in how:
        function = _spread_nan(function)
    if instruction.opcode in ("min", "max") and len(instruction.operands) == 4:  # of three numbers, for sm_100
        count, function = 3, _of_three(function)
    if type_.name == "f64" and function is fused_multiply_add:
        function = fused_multiply_add_float64
    if type_.kind == "pair":
        compute = _on_pairs(type_.name.removesuffix("x2"), function, how)
    else:
        compute = _on_values(type_, function, how)
    return Pure(same(type_.name, count), (type_,), compute)


def _spread_nan(function: Callable[..., NDArray]) -> Callable[..., NDArray]:
    """min.NaN and max.NaN: NaN wins."""
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), function(a, b))


def _on_values(type_: Type, function: Callable[..., NDArray], how: set[str]) -> Callable[..., NDArray]:
    """The function on values of one type, with the modifiers .ftz and .sat."""

    def compute(*values: NDArray) -> NDArray:
        if type_.bits == 16:
            values = tuple(widen(value.view(np.uint16), type_.name) for value in values)
        if "ftz" in how:
            values = tuple(map(flush, values))
        result = np.asarray(function(*values))
        if type_.bits == 16:
            return narrow(_saturated(result, how), type_.name).view(type_.dtype)
        result = _saturated(result.astype(type_.dtype), how)
        return flush(result) if "ftz" in how else result

    return compute


def _saturated(values: NDArray, how: set[str]) -> NDArray:
    return np.where(np.isnan(values), values.dtype.type(0), np.clip(values, 0, 1)) if "sat" in how else values


def _on_pairs(half: str, function: Callable[..., NDArray], how: set[str]) -> Callable[..., NDArray]:
    """The function on both halves of f16x2, bf16x2 or f32x2."""
    type_ = type_named(half)
    one = _on_values(type_, function, how)

    def compute(*pairs: NDArray) -> NDArray:
        pairs = np.broadcast_arrays(*pairs)
        halves = [np.ascontiguousarray(pair).view(type_.raw).view(type_.dtype) for pair in pairs]
        return np.ascontiguousarray(one(*halves)).view(pairs[0].dtype)

    return compute


def _mixed(instruction: Instruction) -> Pure:
    """sm_100's `fma.rn.f32.bf16` and such: 16-bit factors or first term, the last term and the result float32."""
    name = instruction.modifiers[-1]
    how = only(instruction, "f32", name, "rn", "sat")
    if instruction.opcode not in ("add", "sub", "fma") or name not in ("bf16", "f16"):
        raise NotSimulated(f"{instruction.opcode}.f32.{name}")
    count, function = FUNCTIONS[instruction.opcode]

    def compute(*values: NDArray) -> NDArray:
        wide = [widen(value.view(np.uint16), name) for value in values[:-1]]
        return _saturated(function(*wide, values[-1]).astype(np.float32), how)

    return Pure((*same(name, count - 1), type_named("f32")), same("f32", 1), compute)


@pure("testp")
def _test(instruction: Instruction) -> Pure:
    name = instruction.modifiers[-1]
    kind = (only(instruction, name, "finite", "infinite", "number", "notanumber") - {name}).pop()
    checks = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "notanumber": np.isnan,
        "number": lambda a: ~np.isnan(a),
    }
    return Pure(same(name, 1), same("pred", 1), checks[kind])
