"""The checks of the simulated kernels see every planted fault that changes anything: PTX with one line changed.

What is left has a reason, and docs/kernels.md lists it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

import documented
import simulated_checks
import triton
from compile_offline import case_named
from mutants import Mutant, mutants
from ptx import Fault
from simulated import Run, ptx_of


class Survivor(NamedTuple):
    """Mutants that no check can see."""

    kind: str
    pattern: str
    """Of the changed instruction."""
    most: int
    """How many a kernel may have."""
    why: str


LOOP = "a further round of a loop, all of whose accesses are masked"
ENTRY = "a test before a loop that the loop's own bound or the masks make needless"
DIVISION = "64 bits are divided by 64 where 32 would do"
HIGH = "the upper halves of the numbers of samples, which are 0"
ROW = "the length of sample 0, read for rows that are not there"
SAME = "all lanes store the same number"
POWER = "a power of beta by the slow way of its exponent, or 0 for one so small that 1 less it is 1"
SURVIVORS = {
    "adamw_ema": [
        Survivor("jump", r"@%p[2457] bra", 4, POWER),
        Survivor("bound", r"setp\.ge\.s32", 1, ENTRY),
        Survivor("jump", r"@%p12 bra", 1, ENTRY),
    ],
    "ema_update": [Survivor("bound", r"setp\.ge\.s32", 1, ENTRY), Survivor("jump", r"@!?%p\d+ bra", 1, ENTRY)],
    "smooth_l1_forward": [
        Survivor("bound", r"setp\.lt\.s32 \S+ \S+ 1;", 1, ENTRY),
        Survivor("jump", r"@!?%p\d+ bra", 1, ENTRY),
        Survivor("bound", r"setp\.lt\.s32 \S+ %r\d+, %r\d+;", 1, LOOP),
        Survivor("guard", r"st\.global\.b32", 1, SAME),
    ],
    "smooth_l1_backward": [
        Survivor("bound", r"setp\.lt\.s32 \S+ \S+ 1;", 1, ENTRY),
        Survivor("jump", r"@!?%p\d+ bra", 1, ENTRY),
        Survivor("bound", r"setp\.lt\.s32 \S+ %r\d+, %r\d+;", 1, LOOP),
    ],
    "row_targets": [Survivor("jump", r"@!?%p\d+ bra", 1, DIVISION)],
    "column_statistics": [
        Survivor("bound", r"setp\.lt\.s32 \S+ \S+ 33;", 1, ENTRY),
        Survivor("jump", r"@!?%p\d+ bra", 1, ENTRY),
        Survivor("bound", r"setp\.lt\.s32 \S+ %r\d+, %r\d+;", 1, LOOP),
    ],
    "merge_samples": [],
    "column_targets": [
        Survivor("jump", r"@!%p\d+ bra", 5, DIVISION),
        Survivor("bound", r"setp\.ge\.s64", 1, ENTRY),
        Survivor("jump", r"@%p\d+ bra", 1, ENTRY),
        Survivor("lane", r"shfl\.sync\.bfly", 10, HIGH),
        Survivor("guard", r"ld\.global\.b64", 4, ROW),
    ],
}
"""By the name of the kernel's function."""

# Every kernel, with each way to know its bounds and every format that its rounding is made for.
NAMES = [
    "adamw shadows bf16",
    "ema bf16 shadow bf16",
    "ema f16 shadow f16",
    "ema f32 misaligned",
    "forward bf16",
    "forward bf16 odd",
]
NAMES += [
    "backward bf16 rows",
    "rows f32 K10",
    "rows bf16 K6 plain final lengths",
    "statistics f32 K8 lengths",
    "merge",
]
NAMES += ["columns bf16 K8", "columns f32 K8 lengths", "columns bf16 K10 final"]


def is_seen(name: str, mutant: Mutant, no_worse_than) -> bool:
    """Whether the check of a case fails on the mutant."""
    try:
        simulated_checks.check(Run(name, 90, text=mutant.text), no_worse_than)
    except (AssertionError, Fault):
        return True
    return False


def check_seen(name: str, planted: list[Mutant], no_worse_than) -> None:
    """Every one of a case's mutants is seen, but for those that have a reason."""
    left = [mutant for mutant in planted if not is_seen(name, mutant, no_worse_than)]
    if not known():
        assert len(left) <= len(planted) // 4
        return
    for kind, pattern, most, _ in SURVIVORS[case_named(name).kernel.__name__]:
        same = [mutant for mutant in left if mutant.kind == kind and re.match(pattern, spaced(mutant))]
        left = [mutant for mutant in left if mutant not in same[:most]]
    assert not left, "\n".join(f"{mutant.kind}, line {mutant.line}: {mutant.change}" for mutant in left)


def known() -> bool:
    """Whether this is the compiler of the document: another one writes other loops, of which nothing is known."""
    return documented.Record("triton").compiler == f"triton {triton.__version__}"


def spaced(mutant: Mutant) -> str:
    """The changed instruction without its guard's or its own tabs."""
    before = " ".join(mutant.change.partition(" -> ")[0].split())
    return before if mutant.kind == "jump" else re.sub(r"^@!?%p\d+ ", "", before)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_every_mutant_is_seen(name, no_worse_than):
    text = ptx_of(name, 90)
    simulated_checks.check(Run(name, 90, text=text), no_worse_than)
    planted = [*mutants(text)]
    assert len(planted) >= 12
    check_seen(name, planted, no_worse_than)


# A kernel, the kind of a fault, its instruction, and how many of these there are: each was missed by the sizes or by
# the comparison that the checks had before.
GAPS = {
    "one more element at the end of the EMA, count % 4 = 1 or 2": ("ema f32", "bound", r"setp\.lt\.s32", 4),
    "the EMA from the farther end": ("ema bf16", "end", r"setp\.lt\.f64", 1),
    "the EMA's shadow rounded toward zero": ("ema f16 shadow f16", "rounding", r"cvt\.rn\.f16x2", 2),
    "gradients of the loss rounded toward zero": ("forward bf16", "rounding", r"cvt\.rn\.bf16x2", 4),
    "gradients passed on, rounded toward zero": ("backward bf16 rows", "rounding", r"cvt\.rn\.bf16x2", 4),
    "the second half of a step of the loss, partly there": (
        "forward f32",
        "bound",
        r"setp\.lt\.s32 \S+ %r\d+, %r\d+;",
        3,
    ),
    "pieces of a row of 256 to 640 channels": ("rows bf16 K6 final", "bound", r"setp\.lt\.s32", 8),
    "a tile's last rows": ("columns bf16 K8 batch", "bound", r"setp\.lt\.s64", 4),
    "a loop over two samples": ("merge", "bound", r"setp\.lt\.s32", 2),
    "frames at the end of a tile": ("statistics bf16 K8 batch", "bound", r"setp\.lt\.s32 \S+ %r\d+, %r17", 1),
}


SLOW = ("pieces of a row of 256 to 640 channels", "frames at the end of a tile")


@pytest.mark.parametrize("gap", [pytest.param(gap, marks=pytest.mark.long if gap in SLOW else ()) for gap in GAPS])
def test_gaps_of_former_sizes_are_closed(gap, no_worse_than):
    name, kind, pattern, least = GAPS[gap]
    planted = [mutant for mutant in mutants(ptx_of(name, 90), kind) if re.match(pattern, spaced(mutant))]
    assert len(planted) >= least or not known()
    check_seen(name, planted, no_worse_than)
