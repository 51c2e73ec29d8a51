"""kernels.cpp, norms.cpp, views.cpp and every CPU kernel with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from d2v_fast import _C

ROOT = Path(__file__).parents[2]


def flags(isa: str) -> list[str]:
    """The options that CMakeLists.txt gives to the kernels of one instruction set."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = dict(re.findall(r"set\(ISA_FLAGS_(\w+) ([^)]*)\)", text))
    options = found.get(isa, "")
    while "${" in options:  # one set is another one and more
        options = re.sub(r"\$\{ISA_FLAGS_(\w+)\}", lambda match: found[match[1]], options)
    return options.split()


@pytest.mark.parametrize("isa", sorted({"baseline", _C.isa()}))
def test_kernels_in_exactly_sized_buffers(isa, tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    tests = [Path(__file__).with_name(name) for name in ("kernels.cpp", "norms.cpp", "views.cpp")]
    sources = [*tests, *sorted((ROOT / "csrc/cpu/kernels").glob("*.cpp"))]
    # g++ 12 warns about its own AVX-512 headers.
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
    # Vectorised once: what is written for all instruction sets is the same source, and compiles in half the time
    # without.
    optimised = ["-O1", "-ftree-vectorize"] if isa == _C.isa() else ["-O0"]
    sanitizers = ["-g1", *optimised, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    options = ["-std=c++17", "-fopenmp", *warnings, *sanitizers, *flags(isa), f"-DD2V_ISA={isa}", f"-I{ROOT / 'csrc'}"]
    options += [] if isa == "baseline" else ["-DD2V_X86"]

    def compile_one(source: Path) -> Path:
        target = tmp_path / f"{source.stem}.o"
        subprocess.run([compiler, *options, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run([compiler, *options, *objects, "-o", tmp_path / "kernels"], check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    ran = subprocess.run([tmp_path / "kernels"], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "ok\n"
