"""masks.cpp and csrc/cpu/masks.cpp, compiled with AddressSanitizer and UndefinedBehaviorSanitizer and run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_masks_in_exactly_sized_buffers(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [Path(__file__).with_name("masks.cpp"), ROOT / "csrc/cpu/masks.cpp"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    options = ["-std=c++17", *warnings, *sanitizers, "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *options, *sources, "-o", tmp_path / "masks"], check=True)
    ran = subprocess.run([tmp_path / "masks"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "ok\n"
