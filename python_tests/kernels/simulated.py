"""Launches the PTX of the compiled Triton kernels in the simulator, on torch tensors; keeps what each one executed."""

from __future__ import annotations

import functools
from typing import Any

import compile_offline
import torch
from compile_offline import CASES, Case
from ptx import Buffer, Coverage, Kernel, Memory, Report, launch, parse
from torch import Tensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Device:
    """Global memory that takes and gives torch tensors."""

    def __init__(self, size: int = 1 << 22) -> None:
        self.memory = Memory(size)
        self._formats: dict[str, torch.dtype] = {}

    def put(self, tensor: Tensor, name: str, *, offset: int = 0) -> Buffer:
        """A copy of the tensor, `offset` bytes past a multiple of 256."""
        self._formats[name] = tensor.dtype
        bits = tensor.detach().contiguous().view(BITS[tensor.element_size()])
        return self.memory.put(bits.numpy(), name, offset=offset)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, name: str, *, offset: int = 0) -> Buffer:
        """Memory for a result; to read it before it is written is a fault."""
        self._formats[name] = dtype
        bits = torch.empty(0, dtype=BITS[dtype.itemsize]).numpy().dtype
        return self.memory.reserve(shape, bits, name, offset=offset)

    def get(self, buffer: Buffer) -> Tensor:
        """What the buffer holds, every element of which must have been written."""
        written = self.memory.written[buffer.start : buffer.start + buffer.bytes]
        assert written.all(), f"{int((written == 0).sum())} bytes of {buffer.name!r} were never written"
        return torch.from_numpy(buffer.numpy()).view(self._formats[buffer.name])


@functools.cache
def kernel(name: str, arch: int) -> tuple[Kernel, int]:
    """The parsed kernel of `CASES[name]` and the bytes of shared memory it wants."""
    compiled = compile_offline.compile_case(name, arch)
    (parsed,) = parse(compiled.asm["ptx"]).values()
    return parsed, compiled.metadata.shared


class Run:
    """One compiled kernel, launched on several sizes: what did they execute, and what did the last one move?"""

    def __init__(self, name: str, arch: int) -> None:
        self.name, self.arch = name, arch
        self.case: Case = CASES[name]
        self.kernel, self.shared = kernel(name, arch)
        self.coverage = Coverage(self.kernel)

    def __call__(self, device: Device, grid: tuple[int, ...], **values: Any) -> Report:
        """Launches it; `values` by the names of the kernel's arguments, buffers or numbers, tuples for tuples."""
        arguments: list[Any] = []
        for name in self.case.kernel.arg_names:
            if name in self.case.arguments:
                value = values.pop(name)
                arguments += value if isinstance(value, tuple) else [value]
        assert not values, f"{self.name} takes no {sorted(values)}"
        report = launch(
            self.kernel, grid, 32 * self.case.warps, [*arguments, 0, 0], device.memory, shared_bytes=self.shared
        )
        self.coverage.add(report)
        return report
