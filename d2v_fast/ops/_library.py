"""The `d2v_fast` namespace of torch operators: how an operation is registered, and which code serves it where."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import library as torch_library

from d2v_fast import _C

library = torch_library.Library("d2v_fast", "DEF")

# The kernels' codes of the number formats (enum DType in csrc/cpu/kernels.h).
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

# enum Reduction in csrc/cpu/kernels.h
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}


class Backend(NamedTuple):
    """Which code serves an operation on one kind of device."""

    implementation: str
    """What runs, in a few words."""

    reason: str
    """Why it runs and no other one does."""


class Switch:
    """Off, but on inside of its context: `with switch(): ...`. Each thread has its own.

    Args:
        name: for messages.
    """

    def __init__(self, name: str) -> None:
        self._state: ContextVar[bool] = ContextVar(name, default=False)

    @property
    def on(self) -> bool:
        """Whether we are inside of its context."""
        return self._state.get()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """On within the context."""
        before = self._state.set(True)
        try:
            yield
        finally:
            self._state.reset(before)


def eager(x: Tensor) -> bool:
    """Whether x has the format that autocast asks for if it is on, and is outside of a graph.

    A graph decides for itself what it joins and keeps.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    device = x.device.type
    return not torch.is_autocast_enabled(device) or x.dtype == torch.get_autocast_dtype(device)


def eager_on_cpu(x: Tensor) -> bool:
    """The same, and whether x is a tensor of the CPU."""
    return x.is_cpu and eager(x)


_backends: dict[str, dict[str, Callable[[], Backend]]] = {}


def register(
    schema: str,
    *,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    fake: Callable[..., Any],
    other: Callable[..., Any] | None = None,
) -> Any:
    """Defines one operator of the namespace and returns its overload, ready to be called.

    `Library.define` and `Library.impl` rather than `torch.library.custom_op`: a call costs 2 microseconds instead of 9.

    Args:
        schema: name and signature in torch's schema language, mutated arguments marked.
        cpu: the implementation for CPU tensors.
        cuda: the implementation for tensors of a GPU, NVIDIA's or AMD's.
        fake: the same without data: checks the metadata and returns empty results.
        other: the implementation for every other device, if there is one.
    """
    name = library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, cpu, "CPU")
    library.impl(name, cuda, "CUDA")
    if other is not None:
        library.impl(name, other, "CompositeExplicitAutograd")
    torch_library.register_fake(f"d2v_fast::{name}", fake, lib=library)
    return getattr(torch.ops.d2v_fast, name).default


def differentiate(operator: Any, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Gives an operator that `register` returned its gradient.

    Args:
        operator: of this namespace.
        backward: (context, gradients of the outputs) to the gradients of the inputs.
        save: (context, inputs, output) keeps what `backward` reads.
    """
    torch_library.register_autograd(operator, backward, setup_context=save, lib=library)


def serve(operation: str, **devices: Callable[[], Backend]) -> None:
    """Notes for `backends()` who tells which code serves a public operation on each kind of device."""
    _backends[operation] = devices


def compiled() -> Backend:
    """The entry of an operation that has a compiled CPU kernel."""
    return Backend(f"compiled C++ ({_C.isa()})", "the best instruction set of this processor, or that of D2V_FAST_ISA")


def backends() -> dict[str, dict[str, Backend]]:
    """Which implementation serves each operation on each kind of device, and why no other one does.

    Returns:
        operation -> device type ("cpu", "cuda") -> `Backend(implementation, reason)`.
    """
    return {name: {device: tell() for device, tell in devices.items()} for name, devices in _backends.items()}


def dtype_code(tensor: Tensor, what: str) -> int:
    """The kernels' code of the tensor's dtype.

    Raises:
        TypeError: the dtype is none of float32, float64, bfloat16, float16.
    """
    code = DTYPE_CODES.get(tensor.dtype)
    if code is None:
        raise TypeError(f"{what} has dtype {tensor.dtype}; use float32, float64, bfloat16 or float16")
    return code


def decay_number(decay: Tensor) -> float:
    """The decay of a moving average, from a [] of the CPU.

    Raises:
        ValueError: it is not in [0, 1].
    """
    value = decay.item()
    if not 0.0 <= value <= 1.0:  # NaN too
        raise ValueError(f"decay is {value}; it must be finite and in [0, 1]")
    return value


def check_rows(rows: Tensor, limit: int, name: str = "rows") -> None:
    """Checks the values of flat row indices on the CPU; `rows` is contiguous int64 [M], `name` is for the errors.

    Raises:
        IndexError: a row is outside [0, limit), or not above the one before it.
    """
    bad = _C.first_bad_row(rows.data_ptr(), rows.numel(), limit)
    if bad < 0:
        return
    value = int(rows[bad])
    if not 0 <= value < limit:
        raise IndexError(f"{name}[{bad}] is {value}, outside of the {limit} flat positions of B * T")
    raise IndexError(
        f"{name}[{bad}] is {value} after {int(rows[bad - 1])}: {name} must be ascending and unique (use torch.unique)"
    )


def check_lengths(lengths: Tensor, frames: int) -> None:
    """Checks the values of lengths, int64 [B]; those of a GPU are waited for.

    Raises:
        ValueError: a length is not in [1, frames].
    """
    for sample, length in enumerate(lengths.tolist()):
        if not 1 <= length <= frames:
            raise ValueError(
                f"lengths[{sample}] is {length}; it must lie in [1, T = {frames}]: leave out samples without a frame"
            )
