"""What a modality gives to be looked at: arrays and words. `d2v_fast.report` renders them and knows no modality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_VIEWS = 4
"""Masked views of a sample that are drawn."""

_BINS = 12


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels, with a frame around a part of them and a mask of patches."""

    pixels: np.ndarray
    """uint8 or float in [0, 1], [H, W] or [H, W, 3]."""

    title: str = ""

    frame: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the part that is framed, in pixels."""

    mask: np.ndarray | None = None
    """bool [h, w], True for masked patches; H and W are multiples of h and w."""


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """One or more signals over time, with a window and masked stretches."""

    samples: np.ndarray
    """float [N], or [channels, N] drawn above each other."""

    rate: float
    """Samples per second."""

    title: str = ""

    window: tuple[int, int] | None = None
    """First sample and length of the part that is framed."""

    mask: np.ndarray | None = None
    """bool [T] over the whole time, True for masked positions."""


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """Energies over time and frequency, with masked stretches or patches."""

    energies: np.ndarray
    """float [bands, frames], logarithmic, lowest band first."""

    seconds: float
    """Length of the whole."""

    title: str = ""

    time: str = "seconds"
    """What stands below the time axis."""

    mask: np.ndarray | None = None
    """bool [T] over the same time, or [h, w] over bands (lowest first) and time; True where it is masked."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Running text, token by token."""

    tokens: tuple[str, ...]
    """As they are to be shown, a space in front of those that begin a word."""

    mask: np.ndarray
    """bool [tokens], True for the masked ones."""

    title: str = ""


Panel = Picture | Waveform | Spectrogram | Words


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels beside each other."""

    panels: tuple[Panel, ...]

    label: str = ""
    """In front of them."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A batch for a person: as it is stored, as the teacher sees it, and as the student does."""

    title: str
    """How much is masked, say."""

    rows: tuple[Row, ...]
    """From top to bottom."""


def of_views(views: int) -> str:
    """The end of a title: how many masked views there are of each sample, if it is more than one."""
    if views == 1:
        return ""
    return f", {views} views of each" + (f", the first {MOST_VIEWS} shown" if views > MOST_VIEWS else "")


@dataclass(frozen=True)
class Histogram:
    """How often values fall between edges."""

    title: str

    edges: np.ndarray
    """float64 [n + 1], ascending."""

    counts: np.ndarray
    """int64 [n]."""

    unit: str


def histogram(title: str, values: np.ndarray, unit: str) -> Histogram:
    """A histogram with evenly spaced edges, or growing ones where values span more than a factor of twenty.

    Args:
        title: What the values are.
        values: [N], at least one.
        unit: Of the values.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return Histogram(title, np.array([low, low]), np.array([len(values)]), unit)
    edges = np.geomspace(low, high, _BINS + 1) if low > 0 and high > 20 * low else np.linspace(low, high, _BINS + 1)
    counts, _ = np.histogram(values, edges)
    counts[-1] += len(values) - int(counts.sum())  # what rounding has put outside of the outer edges
    return Histogram(title, edges, counts, unit)
