"""What nvcc makes of the CUDA kernels for each GPU: no warnings, spills or stack, wide accesses, few registers."""

from __future__ import annotations

import re

import cuda_compiler
import pytest
from cuda_cpu_build import ROOT

EMA, TARGETS = ROOT / "csrc/cuda/ema.cu", ROOT / "csrc/cuda/layer_targets.cu"
# A block has 256 threads: up to 48 registers let five blocks onto a multiprocessor, up to 80 three, up to 128 two.
REGISTERS = {"ema": 48, "vector, staged": 80, "vector": 128, "scalar, staged": 128, "scalar": 128}


def form(name: str) -> str:
    """A key of REGISTERS for a kernel's mangled name; its template arguments are <T, VECTOR, STAGED>."""
    if "ema_kernel" in name:
        return "ema"
    vector, staged = re.search(r"Lb([01])ELb([01])E", name).groups()
    return ("scalar", "vector")[int(vector)] + ("", ", staged")[int(staged)]


@pytest.mark.parametrize("arch", cuda_compiler.ARCHITECTURES)
@pytest.mark.parametrize(("source", "kernels"), [(EMA, 1), (TARGETS, 12)], ids=["ema", "layer_targets"])
def test_resources(source, kernels, arch):
    if why := cuda_compiler.missing(arch):
        pytest.skip(why)
    _, resources = cuda_compiler.cubin(source, arch)
    assert len(resources) == kernels
    for name, taken in resources.items():
        assert (taken.stack, taken.spill_stores, taken.spill_loads) == (0, 0, 0), name
        assert 0 < taken.registers <= REGISTERS[form(name)], name
        # Statistics and the warps' parts of them: the dynamic shared memory beside them is the launch's.
        assert taken.shared == (0 if source == EMA else 640 if "kernelIf" in name else 1248), name


@pytest.mark.parametrize("arch", cuda_compiler.ARCHITECTURES)
def test_accesses_are_wide(arch):
    if why := cuda_compiler.disassembly_missing(arch):
        pytest.skip(why)
    for source in (EMA, TARGETS):
        for name, code in cuda_compiler.disassembly(source, arch).items():
            accesses = re.findall(r"\b((?:LD|ST)[GL]?\.E\S*)", code)
            assert all(access.startswith(("LDG", "STG")) for access in accesses), f"{name}: not known to be global"
            if form(name).startswith("scalar"):
                continue
            # The EMA: nine pairs of formats, two quads under way. The targets: three vectors, and the first frame's.
            wide_loads, wide_stores = (18, 18) if source == EMA else (4, 2)
            assert accesses.count("LDG.E.128") >= wide_loads, name
            assert accesses.count("STG.E.128") >= wide_stores, name
            if source == EMA:  # the students and shadows of 16 bits
                assert accesses.count("LDG.E.64") >= 12
                assert accesses.count("STG.E.64") >= 12


@pytest.mark.parametrize("arch", cuda_compiler.ARCHITECTURES)
@pytest.mark.parametrize("source", [EMA, TARGETS], ids=["ema", "layer_targets"])
def test_ptx_is_for_the_architecture(source, arch):
    if why := cuda_compiler.missing(arch):
        pytest.skip(why)
    text = cuda_compiler.ptx(source, arch)
    assert f".target sm_{arch}" in text
    assert text.count(".entry") == (1 if source == EMA else 12)
    assert ".local" not in text  # arrays that the compiler could not keep in registers
