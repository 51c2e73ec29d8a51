"""The PTX that nvcc makes of the CUDA kernels, executed in the simulator: results, races, coverage and traffic.

Nothing here was measured on a GPU.
"""

from __future__ import annotations

import os

import cuda_compiler
import documented
import pytest
from limits import Ratios, check_traffic
from ptx import Coverage, parse
from ptx_checks import BF16, TYPES, ema, entry, part, run_targets, targets

pytestmark = pytest.mark.skipif(cuda_compiler.missing() is not None, reason=str(cuda_compiler.missing()))
EVERYTHING = os.environ.get("D2V_FAST_SIMULATE") == "all"


def on(arch: int, *, representative: bool = True):
    """A GPU's architecture as a parameter; but for a representative on the H100 these are long proofs."""
    return () if representative and arch == 90 else pytest.mark.long


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, id=f"sm_{arch}", marks=on(arch)) for arch in cuda_compiler.ARCHITECTURES]
)
def test_ema(arch, no_worse_than):
    (kernel,) = parse(entry("ema.cu", "ema_kernel", arch)).values()
    coverage = Coverage(kernel)
    launches = list(ema(kernel, no_worse_than))
    for report, _ in launches:
        coverage.add(report)
    compare_with_document("ema", check_traffic(*launches[-1]))
    coverage.check({}, branches=False)


KERNELS = [
    pytest.param(
        arch,
        kind,
        vector,
        staged,
        id=f"sm_{arch} {kind} {how} {where}",
        marks=on(arch, representative=kind == "bf16" and vector == staged),
    )
    for arch in cuda_compiler.ARCHITECTURES
    for kind in TYPES
    for vector, how in ((True, "vectors"), (False, "single"))
    for staged, where in ((True, "staged"), (False, "not staged"))
    # The kernel of the usual case on all architectures, the others on one.
    if EVERYTHING or arch == 90 or (kind, vector, staged) == ("bf16", True, True)
]


@pytest.mark.parametrize(("arch", "kind", "vector", "staged"), KERNELS)
def test_instance_targets(arch, kind, vector, staged, no_worse_than):
    (kernel,) = parse(entry("layer_targets.cu", part(kind, vector, staged), arch)).values()
    coverage = Coverage(kernel)
    launches = list(targets(kernel, kind, vector, staged, no_worse_than))
    for report, _, _ in launches:
        coverage.add(report)
    coverage.check({}, branches=False)
    if vector:
        report, floor, rows = launches[-1]
        # Each tile of channels searches among the rows for a sample's first and last one, and then reads its row
        # numbers; not staged, it reads the wanted rows of the layers twice.
        count, dtype = 300, TYPES[kind][1]
        tiles = 32 * dtype.itemsize // 32
        ratios = check_traffic(report, floor, floor + 8 * count * (3 * tiles - 1) + (0 if staged else rows))
        compare_with_document(f"targets {kind} vectors {'staged' if staged else 'not staged'}", ratios)


@pytest.mark.long
def test_speech_base(no_worse_than):
    """One tile of channels (of 48) of 8 layers [8, 800, 768]: the whole kernel moves 48 times as much."""
    (kernel,) = parse(entry("layer_targets.cu", part("bf16", True, True))).values()
    report, floor, _ = run_targets(kernel, BF16, (8, 8, 800, 16), 3136, 449, True, no_worse_than)
    check_traffic(report, floor, floor + 2 * 8 * 3136)
    assert 48 * (floor - 8 * 3136) == 8 * 8 * 800 * 768 * 2 + 3136 * 768 * 4


def compare_with_document(row: str, ratios: Ratios) -> None:
    documented.check("cuda", row, ratios.cells(), cuda_compiler.version())
