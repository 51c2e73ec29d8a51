"""The PTX that Triton really produces, executed in the simulator: results, races, addresses, coverage and traffic.

The traffic is compared with the limits of simulators/limits.py and with what docs/kernels.md says.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

import documented
import triton
from compile_offline import CASES, FURTHER_CASES, case_named
from limits import Ratios, check_traffic
from simulated import Run, launched
from simulated_checks import check

_LOOP = "leaves out the loop over a tile's samples, but even the last tile has a row, so one sample at least"
_DIVISION = "positions of 2^32 and more, but without rows they are below `count`, which here is passed in 31 bits"
ALLOWED: dict[str, dict[str, tuple[int, str]]] = {
    name: {" bra $L": (1, _LOOP)}
    for name in [*CASES, *FURTHER_CASES]
    if name.startswith("columns") and case_named(name).constants["INSTANCE"]
}
ALLOWED |= {
    name: {"fma.rn.ftz.f32": (2, "the logarithm of an infinite sum; none has a larger term than 1")}
    for name in [*CASES, *FURTHER_CASES]
    if name.startswith("attend")
}
ALLOWED["columns bf16 K1 all"]["div.s64"] = (8, _DIVISION)
"""PTX that no input can execute: part of the instruction, how many at most, and why."""


def compare_with_document(name: str, ratios: Ratios) -> None:
    if name in CASES:
        documented.check("triton", name, ratios.cells(), f"triton {triton.__version__}")


@pytest.mark.parametrize(("name", "arch"), launched())
def test_kernel(name, arch, no_worse_than):
    run = Run(name, arch)
    moved = check(run, no_worse_than)
    if moved.floor and not ({"misaligned", "odd"} & set(name.split())):
        compare_with_document(name, check_traffic(*moved))
    run.coverage.check(ALLOWED.get(name, {}))
