"""Runs interpreted_triton_interpreter.py, and sees that the interpreter refuses to start in the wrong mode."""

from __future__ import annotations

from pathlib import Path

from interpreted import run_interpreted

HERE = Path(__file__).parent


def test_in_the_interpreter():
    run_interpreted(HERE / "interpreted_triton_interpreter.py")


def test_needs_its_mode(run_python):
    done = run_python("import triton_interpreter", PYTHONPATH=str(HERE), TRITON_INTERPRET="0")
    assert done.returncode == 1
    assert "set TRITON_INTERPRET=1 before triton is imported" in done.stderr
