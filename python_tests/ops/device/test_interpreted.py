"""Runs the interpreted_*.py files beside this one, in processes of their own as Triton's interpreter wants it."""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreted import run_interpreted

FILES = sorted(Path(__file__).parent.glob("interpreted_*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem.removeprefix("interpreted_") for file in FILES])
def test_in_the_interpreter(file):
    run_interpreted(file)
