"""`d2v-fast data show`: how much there is, and how long or large it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from d2v_fast import registry
from d2v_fast.data import DataSource, InputsConfig
from d2v_fast.modalities.drawing import Histogram

_BAR = 40
"""Characters of the longest bar."""


def describe(source: DataSource, inputs: InputsConfig) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and histograms about a source."""
    sizes = np.asarray(source.sizes)
    known = int((sizes > 0).reshape(len(sizes), -1).all(axis=1).sum())
    lines = [("samples", f"{len(sizes):,}")]
    if known < len(sizes):
        lines.append(("unreadable", f"{len(sizes) - known:,} (each is skipped and counted)"))
    if known == 0:
        return lines, []
    modality: Any = registry.get(inputs.modality)
    more, histograms = modality.describe(source, inputs)
    return lines + more, histograms


def bars(histogram: Histogram) -> list[tuple[str, str, str]]:
    """(range, bar, count) for each bin."""
    edges, counts = histogram.edges, histogram.counts.tolist()
    width = max(len(_number(edge)) for edge in edges)
    most = max(1, *counts)
    return [
        (f"{_number(low):>{width}} to {_number(high):>{width}} {histogram.unit}", _bar(count / most), f"{count:,}")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.2f}"


def _bar(share: float) -> str:
    """Blocks of an eighth of a character."""
    eighths = round(share * _BAR * 8)
    whole, rest = divmod(max(eighths, 1 if share > 0 else 0), 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]
