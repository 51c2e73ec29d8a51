"""What a person is told about signals over time."""

from __future__ import annotations

import numpy as np

from d2v_fast.modalities.drawing import Histogram, histogram
from d2v_fast.modalities.windows import WindowInputs

_LETTERS = 90
"""Of a name that fits into a title."""


def describe(
    seconds: np.ndarray, inputs: WindowInputs, rates: np.ndarray | None, *, hours_of: str, what: str = "clips"
) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and a histogram about how long signals are.

    Args:
        seconds: float64 [n], of those whose length is known; at least one.
        inputs: Shortest window, and the rate that others are resampled to.
        rates: int64 [N], Hz of files that name a rate, 0 of others; None where nothing is read from files.
        hours_of: What there are hours of: "sound".
        what: The signals are called.
    """
    lines = [
        (hours_of, f"{seconds.sum() / 3600:,.2f} h"),
        ("length", f"{seconds.min():.2f} to {seconds.max():.2f} s, median {np.median(seconds):.2f} s"),
    ]
    short = int((seconds < inputs.min_seconds).sum())
    if short:
        lines.append(("left out", f"{short:,} shorter than inputs.min_seconds {inputs.min_seconds}"))
    if rates is not None and (rates > 0).any():
        found, counts = np.unique(rates[rates > 0], return_counts=True)
        each = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in zip(found, counts, strict=True))
        lines.append(("sampling rates", each))
        if (found != inputs.sample_rate).any():
            lines.append(("", f"other rates are resampled to {inputs.sample_rate:,} Hz each time: cheaper once, ahead"))
    return lines, [histogram(f"length of {what}", seconds, "s")]


def shown(name: str) -> str:
    """A name that fits into a title."""
    return name if len(name) <= _LETTERS else f"...{name[3 - _LETTERS :]}"
