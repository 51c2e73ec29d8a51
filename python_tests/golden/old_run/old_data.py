"""The data of the runs in this folder, from a seed; it must never change, since a run checks what it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RUNS = {"speech": "speech", "speech-padded": "speech", "vision": "vision", "text": "text", "text-padded": "text"}
"""Folder of a run to its modality."""


def old_data(modality: str, array_source: Callable[[str, list[np.ndarray]], Any]) -> Any:
    """Sixteen clips, sixteen pictures, or the text file beside this one.

    Args:
        modality: of the run.
        array_source: the class `ArraySource` of the version of the library that is to be run.
    """
    random = np.random.default_rng(7)
    if modality == "speech":
        return array_source("speech", [random.integers(-9_000, 9_000, 4_000 + 500 * i, np.int16) for i in range(16)])
    if modality == "vision":
        return array_source("vision", [random.integers(0, 256, (20, 24, 3), np.uint8) for _ in range(16)])
    return HERE / "corpus.txt"
