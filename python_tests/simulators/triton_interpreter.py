"""Triton's interpreter, made strict enough to prove a kernel's addresses and arithmetic without a GPU.

Triton runs a kernel in numpy when TRITON_INTERPRET=1 is set before it is imported (so: in a process of its own). As it
comes, it truncates float32 to bfloat16 instead of rounding to nearest even, adds bfloat16 numbers as if they were
integers, reads and writes wherever an address points, reads zeros where a mask says not to read, and runs programs one
after another, so that no race shows. `launch` runs a kernel with all of this put right or reported.

Not seen here: races inside of a program, what the compiler makes of the source, fused multiply-adds (numpy rounds
twice).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

if os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("set TRITON_INTERPRET=1 before triton is imported: its decorator looks at it only then")

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError


class Fault(AssertionError):
    """What a kernel must not do: an address outside of its tensors, a race, a broken promise of alignment."""


class Traffic(NamedTuple):
    """Bytes that a launch loaded and stored, each access counted."""

    loaded: int
    stored: int


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, memory: Iterable[torch.Tensor] = (), **constants: Any
) -> Traffic:
    """Runs a kernel and checks every access.

    Args:
        kernel: a `@triton.jit` function.
        grid: programs along up to three axes.
        arguments: the kernel's, CPU tensors instead of device ones.
        memory: further tensors that the kernel may touch, because a table holds their addresses.
        constants: arguments by name.

    Returns:
        Bytes moved.

    Raises:
        Fault: an active lane's address lies outside of all tensors; two lanes of one store, or two programs of which
            one stores, touch the same byte; a pointer is not a multiple of what tl.multiple_of says of it.
        InterpreterError: whatever else the kernel raised.
    """
    global _watch
    watch = _Watch(_tensors([*arguments, *constants.values(), *memory]))
    _watch = watch
    try:
        kernel[grid](*arguments, **constants)
    except InterpreterError:
        if watch.fault is not None:
            raise watch.fault from None
        raise
    finally:
        _watch = None
    return Traffic(watch.loaded, watch.stored)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


class _Watch:
    """The bytes that a launch may touch, and which program touched each of them last."""

    NOBODY, SEVERAL = -1, -2

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        spans: list[list[int]] = []  # overlapping and adjacent ones joined only where they overlap: gaps stay forbidden
        for start, end in sorted(_span(tensor) for tensor in tensors if tensor.numel()):
            if spans and start < spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([start, end])
        self.starts, self.ends = np.array(spans, np.uint64).reshape(-1, 2).T
        self.first = np.concatenate([[0], np.cumsum(self.ends - self.starts)]).astype(np.int64)
        self.writer = np.full(self.first[-1], self.NOBODY, np.int64)
        self.reader = np.full(self.first[-1], self.NOBODY, np.int64)
        self.loaded = self.stored = 0
        self.fault: Fault | None = None

    def fail(self, what: str) -> None:
        self.fault = Fault(f"{what} in program {interpreter.interpreter_builder.grid_idx}")
        raise self.fault

    def touch(self, pointers: Any, mask: Any, *, store: bool) -> None:
        """Checks and notes the active addresses of one load or store."""
        shape = np.broadcast_shapes(pointers.data.shape, mask.data.shape)
        active = np.broadcast_to(mask.data, shape).astype(bool)  # `&` with a number of the host's makes 0 and 1 of it
        addresses = np.broadcast_to(pointers.data, shape)[active].astype(np.uint64)
        if addresses.size == 0:
            return
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        name = "store" if store else "load"
        span = np.searchsorted(self.starts, addresses, "right").astype(np.int64) - 1
        outside = (span < 0) | (addresses + np.uint64(size) > self.ends[np.maximum(span, 0)])
        if outside.any():
            self.fail(f"{name} outside of every tensor at {int(outside.sum())} of {addresses.size} addresses")
        if (addresses % np.uint64(size)).any():
            self.fail(f"{name} of {size} bytes at an address that is not a multiple of {size}")
        offsets = (self.first[span] + (addresses - self.starts[span]).astype(np.int64))[:, None] + np.arange(size)
        offsets = offsets.ravel()
        x, y, z = interpreter.interpreter_builder.grid_idx
        program = (x << 42) + (y << 21) + z
        if np.isin(self.writer[offsets], (self.NOBODY, program), invert=True).any():
            self.fail(f"race: a {name} of what another program stores")
        if not store:
            self.loaded += offsets.size
            before = self.reader[offsets]
            self.reader[offsets] = np.where((before == self.NOBODY) | (before == program), program, self.SEVERAL)
            return
        self.stored += offsets.size
        if np.unique(offsets).size != offsets.size:
            self.fail("two lanes store to one address")
        if np.isin(self.reader[offsets], (self.NOBODY, program), invert=True).any():
            self.fail("race: a store to what another program loads")
        self.writer[offsets] = program


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last byte of a tensor, whose elements may lie apart."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.itemsize


_watch: _Watch | None = None

# --- the interpreter's own operations, corrected ---

_builder = interpreter.InterpreterBuilder
_load, _store, _dot = _builder.create_masked_load, _builder.create_masked_store, _builder.create_dot
_binary, _convert, _set_attribute = _builder.binary_op, interpreter._convert_float, interpreter.TensorHandle.set_attr


def _checked_load(self: Any, pointers: Any, mask: Any, other: Any, *hints: Any) -> Any:
    if _watch is not None:
        _watch.touch(pointers, mask, store=False)
    result = _load(self, pointers, mask, other, *hints)
    if other is None and not mask.data.all():  # on a GPU the lanes that do not read hold anything
        rubbish = np.frombuffer(b"\xff" * result.data.itemsize, result.data.dtype)
        result = interpreter.TensorHandle(np.where(mask.data, result.data, rubbish), result.dtype)
    return result


def _checked_store(self: Any, pointers: Any, value: Any, mask: Any, *hints: Any) -> Any:
    if _watch is not None:
        _watch.touch(pointers, mask, store=True)
    return _store(self, pointers, value, mask, *hints)


def round_to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits (uint16) of float32 numbers rounded to nearest even; any NaN becomes 0x7fff, as on a GPU."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def _exact_convert(x: Any, source: Any, target: Any, rounding: Any) -> Any:
    if (source, target) == (tl.float32, tl.bfloat16):
        return round_to_bfloat16(x).reshape(x.shape)
    if (source, target) == (tl.bfloat16, tl.float32):
        return x.view(np.uint16).astype(np.uint32) << 16
    if tl.bfloat16 in (source, target):
        raise TypeError(f"a conversion from {source} to {target} is not exact here: go through float32")
    return _convert(x, source, target, rounding)


_MOVES = (np.bitwise_and, np.bitwise_or, np.bitwise_xor)


def _binary_without_bfloat16(self: Any, left: Any, right: Any, operation: Any) -> Any:
    if left.dtype.scalar == tl.bfloat16 and operation not in _MOVES:
        raise TypeError("bfloat16 arithmetic would be done on the bit patterns: cast to float32 first")
    return _binary(self, left, right, operation)


def _checked_attribute(self: Any, key: str, values: Any) -> None:
    if _watch is not None and key == "tt.divisibility" and self.dtype.is_ptr():
        first = int(self.data.flat[0])
        if first % values[0]:
            _watch.fail(f"tl.multiple_of says {values[0]} of the address {first:#x}")
    _set_attribute(self, key, values)


def _dot_in_float32(self: Any, a: Any, b: Any, d: Any, *how: Any) -> Any:
    """Products of 16-bit numbers are exact in float32, in which a GPU sums them; numpy would see bit patterns."""
    wide = [
        interpreter.TensorHandle(_exact_convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)
        if x.dtype.scalar == tl.bfloat16
        else x
        for x in (a, b)
    ]
    return _dot(self, *wide, d, *how)


_builder.create_masked_load, _builder.create_masked_store = _checked_load, _checked_store
_builder.create_dot = _dot_in_float32
_builder.binary_op, interpreter._convert_float = _binary_without_bfloat16, _exact_convert
interpreter.TensorHandle.set_attr = _checked_attribute
