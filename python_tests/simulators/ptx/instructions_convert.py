"""cvt: between all the formats, with saturation and the rounding that the modifier names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import NotSimulated
from .floats import bfloat16_to_float32, float32_to_bfloat16, flush, narrow
from .instructions import Pure, only, pure, same
from .parse import Instruction
from .types import Type, type_named

_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pure("cvt")
def _convert(instruction: Instruction) -> Pure:
    target, source = (type_named(name) for name in instruction.modifiers[-2:])
    how = only(instruction, target.name, source.name, *_TO_INTEGER, "rn", "rz", "ftz", "sat", "relu")
    if target.kind == "pair":
        return _pack(target, source, how)
    if "relu" in how:
        raise NotSimulated("cvt.relu")
    steps: list[Callable[[NDArray], NDArray]] = []
    if source.name == "bf16":
        steps.append(bfloat16_to_float32)
    if "ftz" in how and source.name == "f32":
        steps.append(flush)
    floating = ("float", "bfloat")
    if source.kind in floating and target.kind in floating:
        steps.append(_float_to_float(target, how))
    elif source.kind in floating:
        rounding = next((_TO_INTEGER[name] for name in how & set(_TO_INTEGER)), np.trunc)
        steps.append(lambda values: _float_to_integer(rounding(values), target))
    elif target.kind in floating:
        steps.append(_integer_to_float(target, how))
    else:
        steps.append(lambda values: _integer_to_integer(values, target, saturate="sat" in how))

    def compute(values: NDArray) -> NDArray:
        for step in steps:
            values = step(values)
        return values

    return Pure((source,), (target,), compute)


def _float_to_float(target: Type, how: set[str]) -> Callable[[NDArray], NDArray]:
    toward_zero = "rz" in how
    rounding = next((_TO_INTEGER[name] for name in how & set(_TO_INTEGER)), None)

    def convert(values: NDArray) -> NDArray:
        if rounding is not None:
            values = rounding(values)
        if "sat" in how:
            values = np.where(np.isnan(values), values.dtype.type(0), np.clip(values, 0, 1))
        if target.name == "bf16":
            if toward_zero:
                return float32_to_bfloat16(values.astype(np.float32), toward_zero=True)
            return narrow(np.atleast_1d(values), "bf16")
        result = values.astype(target.dtype)
        if toward_zero:  # one step back where the nearest is farther from zero
            back = np.abs(result.astype(np.float64)) > np.abs(values.astype(np.float64))
            result = np.where(back, np.nextafter(result, target.dtype.type(0)), result)
        return flush(result) if "ftz" in how and target.name == "f32" else result

    return convert


def _float_to_integer(values: NDArray, target: Type) -> NDArray:
    """Out of range gives the nearest integer of the type; NaN gives 0, or the highest bit alone for 64 bits."""
    limits = np.iinfo(target.dtype)
    low, high = float(limits.min), float(limits.max)  # the latter may be one too much, so that it never compares below
    wide = values.astype(np.float64)
    inside = (wide > low) & (wide < high)
    result = np.where(inside, wide, 0).astype(target.dtype)
    result = np.where(wide <= low, target.dtype.type(limits.min), result)
    result = np.where(wide >= high, target.dtype.type(limits.max), result)
    if target.bits == 64:
        result = np.where(np.isnan(wide), np.uint64(1 << 63).astype(target.dtype), result)
    return result


def _integer_to_float(target: Type, how: set[str]) -> Callable[[NDArray], NDArray]:
    if "rz" in how:
        raise NotSimulated("cvt.rz from an integer")
    if target.name == "bf16":
        raise NotSimulated("cvt.bf16 from an integer")
    return lambda values: values.astype(target.dtype)


def _integer_to_integer(values: NDArray, target: Type, *, saturate: bool) -> NDArray:
    if saturate:
        limits = np.iinfo(target.dtype)
        low = max(int(limits.min), int(np.iinfo(values.dtype).min))
        high = min(int(limits.max), int(np.iinfo(values.dtype).max))
        values = np.clip(values, values.dtype.type(low), values.dtype.type(high))
    return values.astype(target.dtype)


def _pack(target: Type, source: Type, how: set[str]) -> Pure:
    """`cvt.rn.bf16x2.f32 d, a, b`: a becomes the upper half, b the lower."""
    if source.name != "f32":
        raise NotSimulated(f"cvt.{target.name}.{source.name}")
    half = target.name.removesuffix("x2")
    toward_zero = _float_to_float(type_named(half), {"rz"})

    def one(values: NDArray) -> NDArray:
        if "relu" in how:
            values = np.where(values > 0, values, np.where(np.isnan(values), values, np.float32(0)))
        return toward_zero(values).view(np.uint16) if "rz" in how else narrow(values, half)

    return Pure(
        same("f32", 2),
        (target,),
        lambda a, b: one(a).astype(np.uint32) << np.uint32(16) | one(b).astype(np.uint32),
    )
