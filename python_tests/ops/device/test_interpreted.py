"""Runs the interpreted_*.py files beside this one, in processes of their own as Triton's interpreter wants it."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from interpreted import run_interpreted

FILES = sorted(Path(__file__).parent.glob("interpreted_*.py"))


LONG = ("triton", "second")


def parameter(file: Path) -> ParameterSet:
    """One file; some are long proofs."""
    name = file.stem.removeprefix("interpreted_")
    return pytest.param(file, id=name, marks=pytest.mark.long if name in LONG else ())


@pytest.mark.parametrize("file", [parameter(file) for file in FILES])
def test_in_the_interpreter(file):
    run_interpreted(file)
