"""`d2v-fast data show`: how much there is, and how long or large it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2v_fast.data.config import InputsConfig
from d2v_fast.data.source import DataSource
from d2v_fast.modalities.speech.clips import Clips
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.blocks import TextBlocks
from d2v_fast.modalities.text.tokenizer import specials

_BINS = 12
_BAR = 40
"""Characters of the longest bar."""


@dataclass(frozen=True)
class Histogram:
    """How often values fall between edges."""

    title: str
    edges: np.ndarray
    """float64 [n + 1], ascending."""

    counts: np.ndarray
    """int64 [n]."""

    unit: str

    def lines(self) -> list[tuple[str, str, str]]:
        """(range, bar, count) for each bin."""
        width = max(len(_number(edge)) for edge in self.edges)
        most = max(1, int(self.counts.max()))
        return [
            (
                f"{_number(low):>{width}} to {_number(high):>{width}} {self.unit}",
                _bar(count / most),
                f"{count:,}",
            )
            for low, high, count in zip(self.edges, self.edges[1:], self.counts.tolist(), strict=False)
        ]


def describe(source: DataSource, inputs: InputsConfig) -> tuple[list[tuple[str, str]], list[Histogram]]:
    """(what, value) lines and histograms about a source."""
    sizes = np.asarray(source.sizes)
    known = sizes[(sizes > 0).reshape(len(sizes), -1).all(axis=1)]
    broken = len(sizes) - len(known)
    lines = [("samples", f"{len(sizes):,}")]
    if broken:
        lines.append(("unreadable", f"{broken:,} (each is skipped and counted)"))
    if len(known) == 0:
        return lines, []
    if isinstance(source, TextBlocks):
        return _text(source)
    if isinstance(inputs, SpeechInputs):
        return lines + _speech_lines(source, known, inputs), [
            _histogram("length of clips", known / inputs.sample_rate, "s")
        ]
    if known.ndim == 2:
        height, width = np.median(known, axis=0)
        lines += [
            ("pixels", f"{known.prod(axis=1).sum() / 1e6:,.1f} million"),
            ("median size", f"{width:.0f} x {height:.0f} (width x height)"),
            ("smallest, largest side", f"{known.min():,}, {known.max():,} pixels"),
        ]
        return lines, [
            _histogram("shorter side", known.min(axis=1), "px"),
            _histogram("width / height", known[:, 1] / known[:, 0], ""),
        ]
    return lines, [_histogram("length", known, "tokens")]


def _speech_lines(source: DataSource, known: np.ndarray, inputs: SpeechInputs) -> list[tuple[str, str]]:
    seconds = known / inputs.sample_rate
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
    return lines


def _histogram(title: str, values: np.ndarray, unit: str) -> Histogram:
    """Evenly spaced edges, or growing ones where values span more than a factor of twenty."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        edges = np.array([low, low])
        return Histogram(title, edges, np.array([len(values)]), unit)
    edges = np.geomspace(low, high, _BINS + 1) if low > 0 and high > 20 * low else np.linspace(low, high, _BINS + 1)
    counts, _ = np.histogram(values, edges)
    missed = len(values) - int(counts.sum())  # the outer edges, rounded
    counts[-1] += missed
    return Histogram(title, edges, counts, unit)


def _text(source: TextBlocks) -> tuple[list[tuple[str, str]], list[Histogram]]:
    ends = np.flatnonzero(source.tokens == specials(source.tokenizer).end)
    lengths = np.diff(ends, prepend=-1)
    lines = [
        ("documents", f"{len(ends):,}, median {np.median(lengths):,.0f} tokens"),
        ("tokens", f"{len(source.tokens):,}"),
        ("blocks", f"{len(source):,} of {source.sizes[0]:,} tokens"),
        ("vocabulary", f"{source.vocab_size:,} tokens, {len(np.unique(source.tokens)):,} of them in use"),
    ]
    return lines, [_histogram("length of documents", lengths, "tokens")]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.2f}"


def _bar(share: float) -> str:
    """Blocks of an eighth of a character."""
    eighths = round(share * _BAR * 8)
    whole, rest = divmod(max(eighths, 1 if share > 0 else 0), 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]
