"""What a person is told about signals over time."""

from __future__ import annotations

import numpy as np

from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import Histogram, histogram
from d2v_fast.modalities.recordings import Recordings
from d2v_fast.modalities.windows import WindowInputs


def describe(
    source: DataSource, seconds: np.ndarray, inputs: WindowInputs, what: str
) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and a histogram about how long signals are.

    Args:
        source: The signals.
        seconds: float64 [n], of those whose length is known; at least one.
        inputs: Shortest window, and the rate that others are resampled to.
        what: The signals are called: "clips".
    """
    lines = [
        (what, f"{seconds.sum() / 3600:,.2f} h"),
        ("length", f"{seconds.min():.2f} to {seconds.max():.2f} s, median {np.median(seconds):.2f} s"),
    ]
    short = int((seconds < inputs.min_seconds).sum())
    if short:
        lines.append(("left out", f"{short:,} shorter than inputs.min_seconds {inputs.min_seconds}"))
    if isinstance(source, Recordings) and (source.rates > 0).any():
        rates, counts = np.unique(source.rates[source.rates > 0], return_counts=True)
        found = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in zip(rates, counts, strict=True))
        lines.append(("sampling rates", found))
        if (rates != inputs.sample_rate).any():
            lines.append(("", f"other rates are resampled to {inputs.sample_rate:,} Hz each time: cheaper once, ahead"))
    return lines, [histogram(f"length of {what}", seconds, "s")]


def shown(name: str) -> str:
    """A name that fits into a title."""
    return name if len(name) <= 90 else f"...{name[-87:]}"
