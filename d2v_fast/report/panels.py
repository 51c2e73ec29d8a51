"""Panels of a drawing (`d2v_fast.modalities.drawing`) on matplotlib's axes, whatever modality they are from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from d2v_fast.modalities.drawing import Panel, Picture, Spectrogram, Waveform, Words
from d2v_fast.report import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 168
"""Characters of text that fit beside each other in a figure of 11 inches."""

_FRAME = plots.COLOURS[1]
_STRETCHES = 1500
"""Parts of a signal whose smallest and largest sample are drawn: more than a line has pixels."""


def render(axes: Axes, panel: Panel, *, columns: int = COLUMNS) -> None:
    """Draws one panel.

    Args:
        axes: Where to draw.
        panel: What.
        columns: Characters in a line of text.
    """
    if isinstance(panel, Picture):
        _picture(axes, panel)
    elif isinstance(panel, Waveform):
        _waveform(axes, panel)
    elif isinstance(panel, Spectrogram):
        _spectrogram(axes, panel)
    else:
        plots.masked_tokens(axes, panel.tokens, panel.mask.tolist(), columns=columns, title="")
        axes.set_title(panel.title, fontsize=8, loc="left", parse_math=False)


def height(panel: Panel, *, columns: int = COLUMNS) -> float:
    """Inches that a panel needs, its title and the numbers at its axes included."""
    if isinstance(panel, Picture):
        return 1.85 if panel.title else 1.6
    if isinstance(panel, Waveform):
        return 0.5 + 0.4 * len(np.atleast_2d(panel.samples))
    if isinstance(panel, Words):
        return 0.36 + 0.19 * (1 + sum(map(len, panel.tokens)) // (columns - 8))
    return 2.0


def _picture(axes: Axes, panel: Picture) -> None:
    from matplotlib.patches import Rectangle

    pixels = panel.pixels if panel.pixels.dtype != np.uint8 else panel.pixels / 255
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    if panel.mask is not None:
        rows, columns = (pixels.shape[i] // panel.mask.shape[i] for i in (0, 1))
        large = panel.mask.repeat(rows, axis=0).repeat(columns, axis=1)
        pixels = np.where(large[..., None], plots.masked_colour(), pixels)
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape[:2]) <= 64 else None)
    if panel.frame is not None:
        top, left, high, wide = panel.frame
        style: Any = {"fill": False, "edgecolor": _FRAME, "linewidth": 1.6, "clip_on": False}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), wide, high, **style))
    if panel.title:
        axes.set_title(panel.title, fontsize=7, pad=3, parse_math=False)
    axes.set(xticks=[], yticks=[], anchor="C")
    axes.spines[:].set(color="#CCCCCC", linewidth=0.6)


def _waveform(axes: Axes, panel: Waveform) -> None:
    """The smallest and the largest sample of many stretches; channels below each other, each on its own scale."""
    channels = np.atleast_2d(panel.samples)
    count = channels.shape[1]
    edges = np.linspace(0, count, min(count, _STRETCHES) + 1).astype(int)[:-1]
    for i, channel in enumerate(channels):
        reach = float(np.abs(channel[np.isfinite(channel)]).max(initial=0)) or 1.0
        low, high = (f.reduceat(channel, edges) / (2.1 * reach) - i for f in (np.minimum, np.maximum))
        axes.fill_between(edges / panel.rate, low, high, color=plots.COLOURS[0], linewidth=0.4)
    seconds = count / panel.rate
    if panel.mask is not None:
        plots.grey_spans(axes, panel.mask, seconds)
    if panel.window is not None:
        start, length = panel.window
        place = (start / panel.rate, (start + length) / panel.rate)
        axes.axvspan(*place, facecolor="none", edgecolor=_FRAME, linewidth=1.6)
    axes.set(xlim=(0, seconds), yticks=[])
    axes.set_title(panel.title, fontsize=9, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _spectrogram(axes: Axes, panel: Spectrogram) -> None:
    mask = np.zeros(1, dtype=bool) if panel.mask is None else panel.mask
    plots.masked_spectrogram(axes, panel.energies, mask, seconds=panel.seconds, title="")
    axes.set_title(panel.title, fontsize=9, loc="left", parse_math=False)
    axes.set_xlabel(panel.time, fontsize=8)
    axes.tick_params(labelsize=8)
