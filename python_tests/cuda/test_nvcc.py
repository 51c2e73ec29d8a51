"""What nvcc makes of the CUDA kernels: no warnings, spills or stack, wide accesses, registers as documented."""

from __future__ import annotations

import re

import cuda_compiler
import documented
import pytest
from cuda_cpu_build import ROOT
from occupancy import occupancy

EMA, TARGETS = ROOT / "csrc/cuda/ema.cu", ROOT / "csrc/cuda/layer_targets.cu"
KERNELS = {EMA: 1, TARGETS: 12}
WARPS = 8
FRAMES, CAPACITY = 800, 449
"""Speech Base: frames, and rows with room in shared memory for an average of 392 (an eighth more, and 8)."""


def row_of(name: str) -> str:
    """The document's row for a kernel's mangled name; the targets' template arguments are <T, VECTOR, STAGED>."""
    if "ema_kernel" in name:
        return "ema"
    kind, vector, staged = re.search(r"kernelI(f|13__nv_bfloat16|6__half)Lb([01])ELb([01])E", name).groups()
    words = {"f": "f32", "13__nv_bfloat16": "bf16", "6__half": "f16"}[kind], ("single", "vectors")[int(vector)]
    return " ".join(("targets", *words, ("not staged", "staged")[int(staged)]))


def dynamic_shared(row: str) -> int:
    """Bytes that a block of speech Base asks for at its launch."""
    if row == "ema":
        return 0
    width = 8 if "f32" in row else 16
    return CAPACITY * (4 * width + 4) + (0 if "not staged" in row else 32 * FRAMES)


LONG = pytest.mark.long
ARCHITECTURES = [pytest.param(arch, marks=() if arch == 90 else LONG) for arch in cuda_compiler.ARCHITECTURES]


@pytest.mark.parametrize(
    "source", [pytest.param(source, id=source.stem, marks=() if source == EMA else LONG) for source in KERNELS]
)
def test_resources(source):
    if why := next(filter(None, map(cuda_compiler.missing, cuda_compiler.ARCHITECTURES)), None):
        pytest.skip(why)
    found: dict[str, list[tuple[int, int, int]]] = {}
    for arch in cuda_compiler.ARCHITECTURES:
        _, resources = cuda_compiler.cubin(source, arch)
        assert len(resources) == KERNELS[source]
        for name, taken in resources.items():
            assert (taken.stack, taken.spill_stores, taken.spill_loads) == (0, 0, 0), name
            row = row_of(name)
            warps = occupancy(taken.registers, WARPS, taken.shared + dynamic_shared(row), arch)
            found.setdefault(row, []).append((taken.registers, taken.shared, warps))
    for row, values in found.items():
        names = "registers", "shared", "warps"
        cells = {name: documented.cell(list(each)) for name, each in zip(names, zip(*values, strict=True), strict=True)}
        documented.check("cuda", row, cells, cuda_compiler.version())


def test_every_row_of_the_document_is_a_kernel():
    kinds = [f"{kind} {width}" for kind in ("f32", "bf16", "f16") for width in ("vectors", "single")]
    rows = {"ema", *(f"targets {kind} {staged}" for kind in kinds for staged in ("staged", "not staged"))}
    assert documented.Record("cuda").rows.keys() == rows


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_accesses_are_wide(arch):
    if why := cuda_compiler.disassembly_missing(arch):
        pytest.skip(why)
    for source in (EMA, TARGETS):
        for name, code in cuda_compiler.disassembly(source, arch).items():
            accesses = re.findall(r"\b((?:LD|ST)[GL]?\.E\S*)", code)
            assert all(access.startswith(("LDG", "STG")) for access in accesses), f"{name}: not known to be global"
            if "single" in row_of(name):
                continue
            # The EMA: nine pairs of formats, two quads under way. The targets: three vectors, and the first frame's.
            wide_loads, wide_stores = (18, 18) if source == EMA else (4, 2)
            assert accesses.count("LDG.E.128") >= wide_loads, name
            assert accesses.count("STG.E.128") >= wide_stores, name
            if source == EMA:  # the students and shadows of 16 bits
                assert accesses.count("LDG.E.64") >= 12
                assert accesses.count("STG.E.64") >= 12


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", [EMA, TARGETS], ids=["ema", "layer_targets"])
def test_ptx_is_for_the_architecture(source, arch):
    if why := cuda_compiler.missing(arch):
        pytest.skip(why)
    text = cuda_compiler.ptx(source, arch)
    assert f".target sm_{arch}" in text
    assert text.count(".entry") == (1 if source == EMA else 12)
    assert ".local" not in text  # arrays that the compiler could not keep in registers
