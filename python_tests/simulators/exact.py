"""One instruction on arrays, and exact arithmetic to compare it with."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from ptx import parse
from ptx.instructions import PURE

SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 2.0**-149, -(2.0**-149), 2.0**-126, 3.4028235e38]


def run(text: str, *values) -> np.ndarray | tuple[np.ndarray, ...]:
    """Computes one instruction, `fma.rn.f32` with three arrays, say; operands after those may be written in `text`."""
    name, _, rest = text.partition(" ")
    operands = rest or ", ".join(["%d", *(f"%s{i}" for i in range(len(values)))])
    kernel = parse(f".entry k()\n{{ .reg .b32 %d; {name} {operands}; }}")["k"]
    what = PURE[kernel.code[0].opcode](kernel.code[0])
    arrays = [np.atleast_1d(np.asarray(v)).astype(t.dtype) for v, t in zip(values, what.sources, strict=True)]
    with np.errstate(all="ignore"):
        result = what.compute(*arrays)
    if not isinstance(result, tuple):
        assert result.dtype == what.results[0].dtype
    return result


def floats32(count: int, seed: int = 0) -> np.ndarray:
    """Random bit patterns, so every exponent, and the special values."""
    bits = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)
    return np.concatenate([bits.view(np.float32), np.float32(SPECIAL)])


def near_one(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-4, 4, count).astype(np.float32)


def rounded(exact: Fraction, bits: int, smallest: int) -> float:
    """An exact number rounded once, to nearest even: `bits` of significand, the last one worth 2**smallest or more."""
    if exact == 0:
        return 0.0
    exponent = math.frexp(float(abs(exact)))[1]
    if abs(exact) < Fraction(2) ** (exponent - 1):
        exponent -= 1  # float() had rounded up to a power of two
    unit = Fraction(2) ** max(exponent - bits, smallest)
    return float(round(exact / unit) * unit)  # Python's round is to nearest even, and exact for fractions


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    """Equal, with -0 and +0 apart and any NaN for another."""
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    number = ~np.isnan(a)
    np.testing.assert_array_equal(a[number], b[number])
    np.testing.assert_array_equal(np.signbit(a[number]), np.signbit(b[number]))


def fractions(values: np.ndarray) -> list[Fraction]:
    """The exact values."""
    return [Fraction(value) for value in values.tolist()]


def words(count: int, seed: int) -> list[int]:
    random = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32).tolist()
    return [0, 1, 2**31, 2**31 - 1, 2**32 - 1, *random]


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
