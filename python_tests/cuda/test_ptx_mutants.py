"""The checks of the simulated CUDA kernels see every planted fault that changes anything: PTX with one line changed.

What is left has a reason, and docs/kernels.md lists it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import cuda_compiler
import documented
import pytest
from mutants import Mutant, mutants
from ptx import Fault, Kernel, parse
from ptx_checks import ema, entry, part, targets

pytestmark = pytest.mark.skipif(cuda_compiler.missing(90) is not None, reason=str(cuda_compiler.missing(90)))
KINDS = ("bound", "rounding", "guard", "lane", "decode", "end")
"""Without jumps: nvcc writes hundreds of them, and the fibers find those that the source may have wrong."""

ENTRY = "a test before a loop, or at its start, which the loop's own end makes needless"
LOOP = "a further round of a loop, all of whose accesses are masked"
FULL = "a length that is all frames, taken as such"
FIRST = "the first of a thread's four channels, which the loop around has found to be there"
ZERO = "zeros, rounded, of channels that are not there"
SURVIVORS: dict[str, list[tuple[str, str, int, str]]] = {
    # Two entries and a loop for each of nine pairs of formats, and one entry more.
    "ema": [("bound", r"setp\.ge\.s32", 19, ENTRY), ("bound", r"setp\.lt\.s32", 9, LOOP)],
    "targets bf16 vectors staged": [
        ("bound", r"setp\.ge\.s64", 1, FULL),
        ("bound", r"setp\.lt\.s64 \S+ \S+ 1;", 1, ENTRY),
        ("bound", r"setp\.ge\.s32", 3, ENTRY),
        ("bound", r"setp\.lt\.s32", 1, LOOP),
    ],
    "targets bf16 single not staged": [
        ("bound", r"setp\.ge\.s64", 1, FULL),
        ("bound", r"setp\.lt\.s64 \S+ \S+ 1;", 1, ENTRY),
        ("bound", r"setp\.ge\.s32", 3, ENTRY),
        ("bound", r"setp\.ge\.s32", 1, FIRST),
        ("bound", r"setp\.lt\.s32", 1, LOOP),
        ("rounding", r"\{ cvt\.rn\.bf16\.f32", 32, ZERO),
    ],
}
"""By the kernel: kind, changed instruction, how many at most, and why no check can see it."""


def checked(name: str, no_worse_than) -> tuple[str, Callable[[Kernel], object]]:
    """The PTX of a kernel, and what checks it."""
    if name == "ema":
        return entry("ema.cu", "ema_kernel"), lambda kernel: list(ema(kernel, no_worse_than))
    kind, vector, staged = name.split()[1], "vectors" in name, "not staged" not in name
    text = entry("layer_targets.cu", part(kind, vector, staged))
    return text, lambda kernel: list(targets(kernel, kind, vector, staged, no_worse_than))


def check_seen(name: str, planted: list[Mutant], no_worse_than) -> None:
    """Every one of the mutants is seen, but for those that have a reason."""
    _, check = checked(name, no_worse_than)
    left = []
    for mutant in planted:
        (kernel,) = parse(mutant.text).values()
        try:
            check(kernel)
        except (AssertionError, Fault):
            continue
        left.append(mutant)
    if documented.Record("cuda").compiler != cuda_compiler.version():  # another compiler writes other loops
        assert len(left) <= len(planted) // 2
        return
    for kind, pattern, most, _ in SURVIVORS[name]:
        same = [m for m in left if m.kind == kind and re.match(pattern, " ".join(m.change.split()))]
        left = [mutant for mutant in left if mutant not in same[:most]]
    assert not left, "\n".join(f"{mutant.kind}, line {mutant.line}: {mutant.change}" for mutant in left)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SURVIVORS)
def test_every_mutant_is_seen(name, no_worse_than):
    text, check = checked(name, no_worse_than)
    (kernel,) = parse(text).values()
    check(kernel)
    planted = [*mutants(text, *KINDS)]
    assert len(planted) > 40
    check_seen(name, planted, no_worse_than)


@pytest.mark.parametrize(("kind", "which"), [("decode", 1), ("rounding", 0), ("end", 0)])
def test_gaps_of_former_sizes_are_closed(kind, which, no_worse_than):
    # A wrong number out of a pair of 16 bits, which only a copy shows; the shadow's rounding; the farther end.
    text, _ = checked("ema", no_worse_than)
    check_seen("ema", [[*mutants(text, kind)][which]], no_worse_than)
