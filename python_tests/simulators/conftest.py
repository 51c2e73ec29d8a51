"""What the simulators' tests share: the packages beside them, and PTX from nvcc."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def nvcc_ptx(tmp_path_factory) -> Callable[..., str]:
    """nvcc_ptx(source, arch=90, FAULT=1): the PTX that nvcc makes of CUDA C++, with these macros."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    folder = tmp_path_factory.mktemp("ptx")

    def compile_source(source: str, arch: int = 90, **macros: int) -> str:
        path = folder / "kernel.cu"
        path.write_text(source)
        defines = [f"-D{name}={value}" for name, value in macros.items()]
        command = [nvcc, "-ptx", f"-arch=sm_{arch}", "-std=c++17", *defines, str(path), "-o", "-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return compile_source
