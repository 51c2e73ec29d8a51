"""Handwritten digits, 8 x 8 pixels, from scikit-learn (no download: they come with the package)."""

from __future__ import annotations

import numpy as np

from d2v_fast.data import ArraySource
from d2v_fast.demo.task import Labelled, Task, held_out, require

TEST_SHARE = 0.25
"""Of the pictures, by a hash of their pixels."""


def task() -> Task:
    """1,797 digits (fewer if some are equal), a quarter held out.

    Raises:
        DemoError: scikit-learn is not installed.
    """
    digits = require("sklearn.datasets").load_digits()
    pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)
    unique = {picture.tobytes(): i for i, picture in reversed(list(enumerate(pictures)))}  # the first of equal ones
    chosen = sorted(unique.values())
    test = [i for i in chosen if held_out(pictures[i].tobytes(), TEST_SHARE)]
    train = sorted(set(chosen) - set(test))

    def part(indices: list[int]) -> Labelled:
        raw = pictures[indices].reshape(len(indices), -1).astype(np.float32)
        return Labelled([pictures[i] for i in indices], digits.target[indices].astype(np.int64), raw)

    return Task(
        preset="vision2-tiny",
        source=ArraySource("vision", [pictures[i] for i in train], [f"digit {i}" for i in train]),
        train=part(train),
        test=part(test),
        classes=tuple(str(name) for name in digits.target_names),
        label="digit",
        floor="pixels",
        about=f"{len(chosen)} handwritten digits of 8 x 8 pixels (scikit-learn), {len(test)} held out by content hash",
        threads=1,  # a batch is 512 vectors of 64 numbers: threads would mostly wait for each other
    )
