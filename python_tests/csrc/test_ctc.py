"""ctc.cpp, csrc/cpu/ctc.cpp and ngram.cpp, compiled with AddressSanitizer and UndefinedBehaviorSanitizer and run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_decoding_in_exactly_sized_buffers(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [Path(__file__).with_name("ctc.cpp"), ROOT / "csrc/cpu/ctc.cpp", ROOT / "csrc/cpu/ngram.cpp"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"]
    options = ["-std=c++17", *warnings, *sanitizers, f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *options, *sources, "-o", tmp_path / "ctc"], check=True)
    ran = subprocess.run([tmp_path / "ctc"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "ok\n"
