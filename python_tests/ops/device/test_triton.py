"""Runs interpreted_triton.py, in a process of its own as Triton's interpreter wants it."""

from __future__ import annotations

from pathlib import Path

from interpreted import run_interpreted


def test_in_the_interpreter():
    run_interpreted(Path(__file__).with_name("interpreted_triton.py"))
