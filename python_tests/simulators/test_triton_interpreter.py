"""Runs interpreted_triton_interpreter.py, and sees that the interpreter refuses to start in the wrong mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_in_the_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")
    file = HERE / "interpreted_triton_interpreter.py"
    # Not this process's options: coverage would write over the file of the outer run.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_needs_its_mode(run_python):
    done = run_python("import triton_interpreter", PYTHONPATH=str(HERE), TRITON_INTERPRET="0")
    assert done.returncode == 1
    assert "set TRITON_INTERPRET=1 before triton is imported" in done.stderr
