"""Exact rounding for what numpy cannot do: bfloat16, fused multiply-add, flushing of subnormals.

A sum or product is "rounded to odd" in float64 (or float32): where it is inexact, the last bit is set. Rounding that
once more to a format with at least two bits fewer gives the same as rounding the exact value once.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

SMALLEST_NORMAL = np.float32(2.0**-126)


def bfloat16_to_float32(bits: NDArray) -> NDArray:
    """uint16 bits -> the float32 of the same value."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_bfloat16(values: NDArray, *, toward_zero: bool = False) -> NDArray:
    """float32 -> uint16 bits, rounded to nearest even (or toward zero); NaN becomes 0x7FFF."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    if not toward_zero:
        bits = bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))
    return np.where(np.isnan(values), np.uint16(0x7FFF), (bits >> np.uint64(16)).astype(np.uint16))


def widen(bits: NDArray, name: str) -> NDArray:
    """Raw bits of an `f16` or `bf16` -> float32."""
    return bfloat16_to_float32(bits) if name == "bf16" else bits.view(np.float16).astype(np.float32)


def narrow(values: NDArray, name: str) -> NDArray:
    """float32 or float64 -> raw bits of an `f16` or `bf16`, rounded once to nearest even."""
    if name == "f16":
        return values.astype(np.float16).view(np.uint16)
    return float32_to_bfloat16(values if values.dtype == np.float32 else to_odd_float32(values))


def flush(values: NDArray) -> NDArray:
    """Subnormal float32 numbers become zeros of their sign (`.ftz`)."""
    return np.where(np.abs(values) < SMALLEST_NORMAL, np.copysign(np.float32(0), values), values)


def to_odd_float32(values: NDArray) -> NDArray:
    """float64 -> float32, rounded to odd."""
    rounded = values.astype(np.float32)
    exact = rounded.astype(np.float64)
    bits = rounded.view(np.int32) - (np.abs(exact) > np.abs(values)).astype(np.int32)  # now truncated
    odd = np.where((exact != values) & ~np.isnan(values), bits | 1, bits)
    return odd.astype(np.int32).view(np.float32)


def _add_to_odd(a: NDArray, b: NDArray) -> NDArray:
    """a + b in float64, rounded to odd; a and b may be of any magnitude (Knuth's two-sum gives the error)."""
    total = np.atleast_1d(a + b)
    of_b = total - a
    error = (a - (total - of_b)) + (b - of_b)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + step, bits).view(np.float64)


def fused_multiply_add(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    """a * b + c of float32 values (or wider 16-bit ones): float64 rounded to odd, to be rounded once by the caller."""
    product = a.astype(np.float64) * b.astype(np.float64)  # exact: 24 + 24 bits
    return _add_to_odd(product, c.astype(np.float64))


def fused_multiply_add_float64(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    """a * b + c of float64 values with one rounding; a Python loop, for few elements."""
    a, b, c = np.broadcast_arrays(a, b, c)
    plain = a * b + c  # right for infinities and NaN, and for the sign of a zero

    def one(x: float, y: float, z: float, rounded: float) -> float:
        if not np.isfinite([x, y, z, rounded]).all():
            return rounded
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        return float(exact) if exact else rounded * 0

    return np.array([one(*values) for values in zip(*(v.tolist() for v in (a, b, c, plain)), strict=True)], np.float64)
