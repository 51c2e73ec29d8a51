"""What the simulators' tests share: the packages beside them, and PTX from nvcc."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def nvcc_ptx(tmp_path_factory) -> Callable[..., str]:
    """nvcc_ptx(source, arch=90, FAULT=1): the PTX that nvcc makes of CUDA C++, with these macros."""
    import cuda_compiler

    if reason := cuda_compiler.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("ptx")

    def compile_source(source: str, arch: int = 90, **macros: int) -> str:
        path = folder / f"{zlib.crc32(source.encode())}.cu"  # a name for each source: the compiler caches by name
        path.write_text(source)
        return cuda_compiler.ptx(path, arch, *(f"{name}={value}" for name, value in macros.items()))

    return compile_source
