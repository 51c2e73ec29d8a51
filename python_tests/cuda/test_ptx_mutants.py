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
"""Without jumps: the fibers find those in the source, and nvcc writes hundreds of them."""


def checked(name: str, no_worse_than) -> tuple[str, Callable[[Kernel], object]]:
    """The PTX of a kernel, and what checks it."""
    if name == "ema":
        return entry("ema.cu", "ema_kernel"), lambda kernel: list(ema(kernel, no_worse_than))
    kind, vector, staged = name.split()[1], "vectors" in name, "not staged" not in name
    text = entry("layer_targets.cu", part(kind, vector, staged))
    return text, lambda kernel: list(targets(kernel, kind, vector, staged, no_worse_than))


def left(name: str, planted: list[Mutant], no_worse_than) -> list[Mutant]:
    """The mutants that the check does not see."""
    _, check = checked(name, no_worse_than)
    unseen = []
    for mutant in planted:
        (kernel,) = parse(mutant.text).values()
        try:
            check(kernel)
        except (AssertionError, Fault):
            continue
        unseen.append(mutant)
    return unseen
