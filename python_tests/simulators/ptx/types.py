"""PTX types and the numpy dtypes that hold their values.

Registers hold raw bits (unsigned integers, or bool for predicates); an instruction's type says how to read them.
bf16 and the packed pairs have no numpy dtype: their values stay raw bits, and `floats.py` converts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import NotSimulated

UNSIGNED = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.uint32), 64: np.dtype(np.uint64)}
SIGNED = {8: np.dtype(np.int8), 16: np.dtype(np.int16), 32: np.dtype(np.int32), 64: np.dtype(np.int64)}
FLOATS = {16: np.dtype(np.float16), 32: np.dtype(np.float32), 64: np.dtype(np.float64)}


@dataclass(frozen=True)
class Type:
    """One PTX type, such as `.s32`."""

    name: str
    kind: str
    """predicate, bits, unsigned, signed, float, bfloat or pair (two floats packed in one register)."""
    bits: int

    @property
    def bytes(self) -> int:
        """The size in memory."""
        return self.bits // 8

    @cached_property
    def raw(self) -> np.dtype:
        """The dtype of the bits, as a register holds them."""
        return np.dtype(bool) if self.kind == "predicate" else UNSIGNED[self.bits]

    @cached_property
    def dtype(self) -> np.dtype:
        """The dtype of the values."""
        return {"signed": SIGNED, "float": FLOATS}.get(self.kind, {}).get(self.bits, self.raw)


TYPES = {
    "pred": Type("pred", "predicate", 1),
    **{f"b{n}": Type(f"b{n}", "bits", n) for n in (8, 16, 32, 64)},
    **{f"u{n}": Type(f"u{n}", "unsigned", n) for n in (8, 16, 32, 64)},
    **{f"s{n}": Type(f"s{n}", "signed", n) for n in (8, 16, 32, 64)},
    **{f"f{n}": Type(f"f{n}", "float", n) for n in (16, 32, 64)},
    "bf16": Type("bf16", "bfloat", 16),
    "f16x2": Type("f16x2", "pair", 32),
    "bf16x2": Type("bf16x2", "pair", 32),
    "f32x2": Type("f32x2", "pair", 64),
}


def type_named(name: str) -> Type:
    """The type of that name, without the dot."""
    if name not in TYPES:
        raise NotSimulated(f"type .{name}")
    return TYPES[name]
