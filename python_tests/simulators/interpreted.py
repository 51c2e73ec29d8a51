"""Runs a file of tests with Triton's interpreter, chosen before triton is imported: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_interpreted(file: Path) -> None:
    """Fails with the other process's report unless every test of the file passes there."""
    pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")
    # Not the options of this process: they are for the outer run.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", str(file)]
    # Not from the root: -m would prefer its unbuilt source tree to the installed package.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, cwd=file.parent)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
