"""The CUDA kernels built for the CPU, once for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "simulators"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def builder(tmp_path_factory):
    """Builds programs of CUDA kernels for the CPU; each once."""
    from cuda_cpu_build import Builder

    return Builder(tmp_path_factory.mktemp("cuda_on_cpu"))
