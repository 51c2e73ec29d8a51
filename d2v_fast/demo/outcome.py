"""What came of a demo, for its table and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2v_fast.config import Config
from d2v_fast.demo.task import Task


@dataclass(frozen=True)
class Outcome:
    """What came of a demo."""

    task: Task
    """The data."""

    config: Config
    """What was pretrained."""

    folder: Path
    """The run."""

    correct: dict[str, dict[str, np.ndarray]]
    """Features ("raw", "random", "student", "teacher") to probe to bool [test samples]."""

    features: dict[str, np.ndarray]
    """Network to its features of the test samples, float32 [test samples, C]."""

    seconds: dict[str, float]
    """What took how long."""
