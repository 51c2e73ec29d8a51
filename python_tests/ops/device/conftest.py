"""Lets the tests of the GPU side of the operations import the simulators and the cases beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parents[1] / "simulators"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def pretended(monkeypatch):
    """CPU tensors stand for those of a GPU; a test says which kernels it has and looks at what was asked for."""
    from pretending import Pretended

    return Pretended(monkeypatch)
