"""How much sound there is, and how long the clips are."""

from __future__ import annotations

import numpy as np

from d2v_fast.data import DataSource
from d2v_fast.modalities.drawing import Histogram, histogram
from d2v_fast.modalities.speech.clips import Clips
from d2v_fast.modalities.speech.config import SpeechInputs


def describe(source: DataSource, inputs: SpeechInputs) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and histograms about the clips whose length is known; there is at least one."""
    sizes = np.asarray(source.sizes)
    seconds = sizes[sizes > 0] / inputs.sample_rate
    lines = [
        ("sound", f"{seconds.sum() / 3600:,.2f} h"),
        ("length", f"{seconds.min():.2f} to {seconds.max():.2f} s, median {np.median(seconds):.2f} s"),
    ]
    short = int((seconds < inputs.min_seconds).sum())
    if short:
        lines.append(("left out", f"{short:,} shorter than inputs.min_seconds {inputs.min_seconds}"))
    if isinstance(source, Clips):
        rates, counts = np.unique(source.rates[source.rates > 0], return_counts=True)
        found = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in zip(rates, counts, strict=True))
        lines.append(("sampling rates", found))
        if (rates != inputs.sample_rate).any():
            lines.append(("", f"other rates are resampled to {inputs.sample_rate:,} Hz each time: cheaper once, ahead"))
    return lines, [histogram("length of clips", seconds, "s")]
