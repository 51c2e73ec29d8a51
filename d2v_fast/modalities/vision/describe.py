"""How large the pictures are."""

from __future__ import annotations

import numpy as np

from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import Histogram, histogram
from d2v_fast.modalities.vision.config import VisionInputs


def describe(source: DataSource, inputs: VisionInputs) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and histograms about the pictures whose size is known; there is at least one."""
    sizes = np.asarray(source.sizes)
    known = sizes[(sizes > 0).all(axis=1)]
    height, width = np.median(known, axis=0)
    lines = [
        ("pixels", f"{known.prod(axis=1).sum() / 1e6:,.1f} million"),
        ("median size", f"{width:.0f} x {height:.0f} (width x height)"),
        ("smallest, largest side", f"{known.min():,}, {known.max():,} pixels"),
    ]
    return lines, [
        histogram("shorter side", known.min(axis=1), "px"),
        histogram("width / height", known[:, 1] / known[:, 0], ""),
    ]
