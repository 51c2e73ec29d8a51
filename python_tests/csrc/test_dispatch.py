"""dispatch.cpp compiles with every compiler that is here, and asks for no feature that older ones do not know."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from d2v_fast import _C

SOURCE = Path(__file__).parents[2] / "csrc/cpu/dispatch.cpp"
COMPILERS = ["g++", "clang++", *(f"clang++-{version}" for version in range(11, 24))]

# What __builtin_cpu_supports of clang 11 takes (X86TargetParser.def); "f16c" came with clang 18.
KNOWN = {"avx", "avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "bmi", "bmi2", "fma", "sse4.2"}


def test_features_that_every_compiler_knows():
    asked = set(re.findall(r'__builtin_cpu_supports\("([^"]+)"\)', SOURCE.read_text()))
    assert asked
    assert asked <= KNOWN


@pytest.mark.parametrize("compiler", [name for name in COMPILERS if shutil.which(name)])
@pytest.mark.parametrize("defined", [[], ["-DD2V_X86"]], ids=["other processors", "x86"])
def test_compiles(compiler, defined):
    if defined and "avx2" not in _C.instruction_sets:
        pytest.skip("not an x86 processor")
    subprocess.run(
        [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *defined, str(SOURCE)], check=True
    )
