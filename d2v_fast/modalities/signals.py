"""What a person is told about signals over time."""

from __future__ import annotations

import math
from typing import Any

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


def suited(
    seconds: np.ndarray, rates: np.ndarray | None, inputs: WindowInputs
) -> tuple[dict[str, Any], dict[str, str]]:
    """See `Modality.suited`: shorter clips than the preset's are used, and no rate that no file has.

    Args:
        seconds: Lengths of the signals that are known.
        rates: Hz of the files, 0 for what is no sound; None: unknown.
        inputs: Of a preset.
    """
    fields: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    if len(seconds) and (short := float((seconds < inputs.min_seconds).mean())) > _LEFT_OUT:
        least = math.floor(100 * float(np.quantile(seconds, _LEFT_OUT))) / 100
        fields["inputs.min_seconds"] = max(0.1, least)
        reasons["inputs.min_seconds"] = (
            f"clips: from {fields['inputs.min_seconds']:g} s on, as {short:.0%} of them are shorter than the preset's "
            f"{inputs.min_seconds:g} s"
        )
    highest = int(rates.max()) if rates is not None and len(rates) and rates.min() > 0 else 0
    if 0 < highest < inputs.sample_rate:
        fields["inputs.sample_rate"] = highest
        reasons["inputs.sample_rate"] = f"sample rate: {highest:,} Hz, the highest of the files"
    return fields, reasons


_LEFT_OUT = 0.05
"""Share of the clips that may be left out for being too short."""
