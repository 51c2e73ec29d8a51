import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="session")
def restatement() -> ModuleType:
    """The published algorithms in plain Python (restatement.py beside this file)."""
    spec = importlib.util.spec_from_file_location("mask_restatement", Path(__file__).parent / "restatement.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def surprise() -> Callable[[np.ndarray, np.ndarray], float]:
    """Two-sample chi-square of two lists of small integers, in standard deviations above its mean."""

    def measure(ours: np.ndarray, theirs: np.ndarray) -> float:
        table = np.stack(
            [np.bincount(np.ravel(x), minlength=1 + max(np.max(ours), np.max(theirs))) for x in (ours, theirs)]
        )
        # Values are pooled until every class holds at least 20 of both samples together.
        classes = np.cumsum(table.sum(0)) // 20
        pooled = np.stack([np.bincount(classes, weights=row) for row in table])
        pooled = pooled[:, pooled.sum(0) > 0]
        expected = pooled.sum(1, keepdims=True) * pooled.sum(0, keepdims=True) / pooled.sum()
        freedom = max(pooled.shape[1] - 1, 1)
        return float((((pooled - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))

    return measure
