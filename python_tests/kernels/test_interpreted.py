"""Runs the interpreted_*.py files beside this one: Triton's interpreter must be chosen before triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["ema", "smooth_l1", "layer_targets", "mutants"])
def test_in_the_interpreter(name):
    pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")
    file = HERE / f"interpreted_{name}.py"
    # Not this process's options: coverage would write over the file of the outer run.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
