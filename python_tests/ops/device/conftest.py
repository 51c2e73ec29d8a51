"""Lets the tests of the GPU side of the operations import the simulators and the cases beside them."""

from __future__ import annotations

import sys
import sysconfig
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
for folder in (HERE, HERE.parents[1] / "simulators"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def pretended(monkeypatch):
    """CPU tensors stand for those of a GPU; a test says which kernels it has and looks at what was asked for."""
    from pretending import Pretended

    return Pretended(monkeypatch)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """d2v_fast._cuda, but for the CPU."""
    from cuda_cpu_build import ROOT, Builder

    folder = tmp_path_factory.mktemp("cuda_module")
    builder = Builder(folder)
    if why := builder.missing("library"):
        pytest.skip(why)
    headers = [sysconfig.get_path("include"), str(Path(torch.__file__).parent / "include")]  # torch brings pybind11's
    if not (Path(headers[0]) / "Python.h").exists():
        pytest.skip("the headers of Python are not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPLUS_INCLUDE_PATH", ":".join(headers))
        sources = [ROOT / f"csrc/cuda/{name}.cu" for name in ("device", "ema", "layer_targets")]
        library = builder.build("library", [*sources, ROOT / "csrc/bind_cuda.cpp"])
    spec = spec_from_file_location("_cuda", library, loader=ExtensionFileLoader("_cuda", str(library)))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cuda_gpu(pretended, compiled):
    """A GPU that the CUDA C++ kernels serve, and no Triton."""
    pretended.with_cuda(compiled)
    return pretended
