"""Launches the PTX of the compiled Triton kernels in the simulator, on torch tensors; keeps what each one executed.

Nothing here was measured on a GPU. D2V_FAST_SIMULATE=all adds architectures and formats that are left out by default.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import compile_offline
import pytest
import torch
from _pytest.mark import ParameterSet
from compile_offline import CASES, FURTHER_CASES, Case, case_named
from ptx import Buffer, Coverage, Memory, Report, launch, parse
from torch import Tensor

EVERYTHING = os.environ.get("D2V_FAST_SIMULATE") == "all"
ARCHS = (75, 80, 86, 89, 90, 100, 120) if EVERYTHING else (80, 90, 100)
NAMES = [*CASES, *FURTHER_CASES] if EVERYTHING else [*CASES]
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Device:
    """Global memory that takes and gives torch tensors."""

    def __init__(self, size: int = 1 << 22) -> None:
        self.memory = Memory(size)
        self._formats: dict[str, torch.dtype] = {}

    def put(self, tensor: Tensor, name: str, *, offset: int = 0, at: int | None = None) -> Buffer:
        """A copy of the tensor, `offset` bytes past a multiple of 256, or at a far address."""
        self._formats[name] = tensor.dtype
        bits = tensor.detach().contiguous().view(BITS[tensor.element_size()])
        return self.memory.put(bits.numpy(), name, offset=offset, at=at)

    def empty(
        self, shape: tuple[int, ...], dtype: torch.dtype, name: str, *, offset: int = 0, at: int | None = None
    ) -> Buffer:
        """Memory for a result; to read it before it is written is a fault."""
        self._formats[name] = dtype
        bits = torch.empty(0, dtype=BITS[dtype.itemsize]).numpy().dtype
        return self.memory.reserve(shape, bits, name, offset=offset, at=at)

    def get(self, buffer: Buffer) -> Tensor:
        """What the buffer holds, every element of which must have been written."""
        written = self.memory.written[buffer.start : buffer.start + buffer.bytes]
        assert written.all(), f"{int((written == 0).sum())} bytes of {buffer.name!r} were never written"
        return torch.from_numpy(buffer.numpy()).view(self._formats[buffer.name])


@functools.cache
def _compiled(case: Case, arch: int) -> tuple[str, int]:
    compiled = compile_offline.compiled(case, arch)
    return compiled.asm["ptx"], compiled.metadata.shared


class Run:
    """One compiled kernel, launched on several sizes: what did they execute?"""

    def __init__(self, case: str | Case, arch: int, *, text: str | None = None) -> None:
        """`text`: the PTX, where a fault is planted in it."""
        self.case = case_named(case) if isinstance(case, str) else case
        right, self.shared = _compiled(self.case, arch)
        (self.kernel,) = parse(text or right).values()
        self.coverage = Coverage(self.kernel)
        # No right kernel comes near it; a wrong one may go on for ever.
        self._max_steps = 1 << 20 if text is None else 1 << 16

    def __call__(
        self, device: Device, grid: tuple[int, ...], *, first_block: int | tuple[int, ...] = 0, **values: Any
    ) -> Report:
        """Launches it; `values` by the names of the kernel's arguments, buffers or numbers, tuples for tuples."""
        arguments: list[Any] = []
        for name in self.case.kernel.arg_names:
            if name in self.case.arguments:
                value = values.pop(name)
                arguments += value if isinstance(value, tuple) else [value]
        assert not values, f"the kernel takes no {sorted(values)}"
        threads = 32 * self.case.warps
        options = {"shared_bytes": self.shared, "first": first_block, "max_steps": self._max_steps}
        report = launch(self.kernel, grid, threads, [*arguments, 0, 0], device.memory, **options)
        self.coverage.add(report)
        return report


def ptx_of(case: str | Case, arch: int) -> str:
    """What Triton makes of a case."""
    return _compiled(case_named(case) if isinstance(case, str) else case, arch)[0]


def launched() -> list[ParameterSet]:
    """(name, arch) of every case and architecture; but for one case of each kernel, for the H100, they are long proofs.

    Unless D2V_FAST_SIMULATE=all asks for everything: all architectures for the first case of each kernel, 90 for the
    others (80 alone for those whose PTX for newer ones cannot be executed).
    """
    names, pairs = {case_named(name).kernel: name for name in reversed(NAMES)}, []
    for name in NAMES:
        first, usual = names[case_named(name).kernel] == name, case_named(name).simulated_for
        for arch in ARCHS:
            if arch == usual or (usual == 90 and (EVERYTHING or first)):
                marks = () if first and arch == usual else pytest.mark.long
                pairs.append(pytest.param(name, arch, id=f"{name} sm_{arch}", marks=marks))
    return pairs


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
