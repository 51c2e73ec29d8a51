"""Runs the interpreted_*.py files beside this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreted import run_interpreted

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("interpreted_*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem.removeprefix("interpreted_") for file in FILES])
def test_in_the_interpreter(file):
    run_interpreted(file)
