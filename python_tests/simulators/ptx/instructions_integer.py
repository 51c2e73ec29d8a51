"""Integer arithmetic, logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .errors import NotSimulated
from .instructions import Pure, only, pure, same
from .parse import Instruction
from .types import SIGNED, UNSIGNED, Type, type_named


def integer_arithmetic(instruction: Instruction) -> Pure:
    """add, sub, mul, mad, div, rem, min, max, neg, abs of integer types; `instructions_float` calls it."""
    opcode, name = instruction.opcode, instruction.modifiers[-1]
    type_ = type_named(name)
    halves = only(instruction, name, *(("lo", "hi", "wide") if opcode in ("mul", "mad") else ()))
    if "wide" in halves or "hi" in halves:
        return _long_product(opcode, type_, high="hi" in halves)
    if opcode not in _ARITHMETIC:
        raise NotSimulated(f"{opcode}.{name}")
    count, compute = _ARITHMETIC[opcode]
    return Pure(same(name, count), (type_,), compute)


def _quotient(a: NDArray, b: NDArray) -> NDArray:
    """Rounded toward zero; division by zero gives all ones, as the hardware does."""
    a, b = np.broadcast_arrays(a, b)
    divisor = np.where(b == 0, b.dtype.type(1), b)
    quotient = a // divisor
    quotient = quotient + ((a % divisor != 0) & ((a < 0) != (divisor < 0)))
    return np.where(b == 0, ~a.dtype.type(0), quotient).astype(a.dtype)


_ARITHMETIC: dict[str, tuple[int, Callable[..., NDArray]]] = {
    "add": (2, np.add),
    "sub": (2, np.subtract),
    "mul": (2, np.multiply),
    "mad": (3, lambda a, b, c: a * b + c),
    "div": (2, _quotient),
    "rem": (2, lambda a, b: a - _quotient(a, b) * b),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "neg": (1, lambda a: (-a.astype(np.int64)).astype(a.dtype)),
    "abs": (1, np.abs),
}


def _long_product(opcode: str, type_: Type, *, high: bool) -> Pure:
    """mul and mad whose product has twice the bits: `.wide` keeps all, `.hi` the upper half."""
    if high and type_.bits == 64:
        exact = np.dtype(object)
    elif type_.bits < 64:
        exact = (SIGNED if type_.kind == "signed" else UNSIGNED)[64]
    else:
        raise NotSimulated("mul.wide of 64 bits")
    result = type_ if high else type_named(type_.name[0] + str(2 * type_.bits))

    def compute(a: NDArray, b: NDArray, *c: NDArray) -> NDArray:
        product = a.astype(exact) * b.astype(exact)
        kept = (product >> type_.bits if high else product).astype(result.dtype)
        return kept + c[0] if c else kept

    return Pure((type_, type_, *((result,) if opcode == "mad" else ())), (result,), compute)


@pure("and", "or", "xor", "not", "cnot")
def _logic(instruction: Instruction) -> Pure:
    name = instruction.modifiers[-1]
    only(instruction, name)
    functions = {
        "and": (2, np.bitwise_and),
        "or": (2, np.bitwise_or),
        "xor": (2, np.bitwise_xor),
        "not": (1, np.invert),
        "cnot": (1, lambda a: (a == 0).astype(a.dtype)),
    }
    count, compute = functions[instruction.opcode]
    return Pure(same(name, count), same(name, 1), compute)


@pure("shl", "shr")
def _shift(instruction: Instruction) -> Pure:
    name = instruction.modifiers[-1]
    only(instruction, name)
    type_ = type_named(name)
    shift = np.left_shift if instruction.opcode == "shl" else np.right_shift

    def compute(a: NDArray, by: NDArray) -> NDArray:
        """Shifts by the width or more give 0, or the sign."""
        last = type_.dtype.type(type_.bits - 1)
        shifted = shift(a, np.minimum(by, type_.bits - 1).astype(type_.dtype))
        beyond = a >> last if type_.kind == "signed" else np.zeros_like(a)
        return np.where(by >= type_.bits, beyond, shifted)

    return Pure((type_, type_named("u32")), (type_,), compute)


@pure("shf")
def _funnel_shift(instruction: Instruction) -> Pure:
    how = only(instruction, "l", "r", "clamp", "wrap", "b32")

    def compute(low: NDArray, high: NDArray, by: NDArray) -> NDArray:
        amount = (np.minimum(by, 32) if "clamp" in how else by & np.uint32(31)).astype(np.uint64)
        both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
        return (both << amount >> np.uint64(32) if "l" in how else both >> amount).astype(np.uint32)

    return Pure((*same("b32", 2), type_named("u32")), same("b32", 1), compute)


@pure("bfe")
def _extract(instruction: Instruction) -> Pure:
    """Bits [at, at + count) of the source, extended by zeros or by their highest bit."""
    name = instruction.modifiers[-1]
    only(instruction, name)
    type_ = type_named(name)

    def compute(a: NDArray, at: NDArray, count: NDArray) -> NDArray:
        a, at, count = np.broadcast_arrays(a, at & np.uint32(255), count & np.uint32(255))
        result = []
        for value, first, many in zip(a.tolist(), at.tolist(), count.tolist(), strict=True):
            bits = value >> first & (1 << many) - 1  # Python's integers extend a negative value without end
            if type_.kind == "signed" and many and bits >> (many - 1):
                bits -= 1 << many
            result.append(bits & (1 << type_.bits) - 1)
        return np.array(result, type_.raw).view(type_.dtype)

    return Pure((type_, *same("u32", 2)), (type_,), compute)


@pure("bfi")
def _insert(instruction: Instruction) -> Pure:
    """Puts the low `count` bits of a over bits [at, at + count) of b."""
    name = instruction.modifiers[-1]
    only(instruction, name)
    type_ = type_named(name)

    def compute(a: NDArray, b: NDArray, at: NDArray, count: NDArray) -> NDArray:
        limit = (1 << type_.bits) - 1
        result = []
        for x, y, first, many in zip(*(v.tolist() for v in np.broadcast_arrays(a, b, at, count)), strict=True):
            field = ((1 << (many & 255)) - 1) << (first & 255) & limit
            result.append(y & ~field | x << (first & 255) & field)
        return np.array(result, type_.raw)

    return Pure((type_, type_, *same("u32", 2)), (type_,), compute)


@pure("popc", "clz", "brev")
def _count_bits(instruction: Instruction) -> Pure:
    name = instruction.modifiers[-1]
    only(instruction, name)
    width = type_named(name).bits
    functions = {
        "popc": lambda value: value.bit_count(),
        "clz": lambda value: width - value.bit_length(),
        "brev": lambda value: int(f"{value:0{width}b}"[::-1], 2),
    }
    one = functions[instruction.opcode]
    result = type_named(name if instruction.opcode == "brev" else "u32")
    return Pure(same(name, 1), (result,), lambda a: np.array([one(value) for value in a.tolist()], result.dtype))


@pure("lop3")
def _any_logic(instruction: Instruction) -> Pure:
    only(instruction, "b32")
    table = int(instruction.operands[4], 0)

    def compute(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
        result = np.zeros(1, np.uint32)
        for row in range(8):
            if table >> row & 1:
                result = result | (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return Pure(same("b32", 3), same("b32", 1), compute)


@pure("prmt")
def _permute(instruction: Instruction) -> Pure:
    only(instruction, "b32")

    def compute(a: NDArray, b: NDArray, selector: NDArray) -> NDArray:
        """Each 4 bits of the selector choose one of 8 bytes; their highest bit asks for its sign instead."""
        both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        result = np.zeros(1, np.uint32)
        for at in range(4):
            choice = selector >> np.uint32(4 * at) & np.uint32(15)
            byte = both >> (choice & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
            byte = np.where(choice & np.uint32(8), (byte >> np.uint64(7)) * np.uint64(255), byte)
            result = result | byte.astype(np.uint32) << np.uint32(8 * at)
        return result

    return Pure(same("b32", 3), same("b32", 1), compute)
