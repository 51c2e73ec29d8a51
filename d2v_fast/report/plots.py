"""Pictures of a run: curves, masks on samples, maps of features, bars. Each function draws into given axes.

matplotlib is imported when the first figure is made; it belongs to the extra `demo`. Colours are Okabe and Ito's, which
differ for colour-blind eyes too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A", "#7F7F7F", "#B3B300")
"""Blue, vermilion, green, purple, orange, sky; then black, brown, grey, olive where more are needed."""

MASKED = "#B0B0B0"
"""What the student does not see."""


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; it belongs to no window.

    Raises:
        ImportError: matplotlib is not installed, or broken; the message is the line that installs it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib. Install the extra `demo`: pip install 'd2v_fast[demo]'") from error
    except Exception as error:  # for example built for another NumPy
        raise ImportError(f"plots need matplotlib, which cannot be loaded ({type(error).__name__}: {error})") from error
    return Figure(figsize=(width, height), layout="constrained")


def masked_colour() -> np.ndarray:
    """`MASKED` as float64 [3] in [0, 1]."""
    return np.array([int(MASKED[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def grey_spans(axes: Axes, mask: np.ndarray, seconds: float) -> None:
    """Greys the masked stretches of a time axis of `seconds`; `mask` is bool [T] over the same time."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int))).reshape(-1, 2)
    for start, end in edges / len(mask) * seconds:
        axes.axvspan(start, end, color=MASKED, alpha=0.85, linewidth=0)


def curves(axes: Axes, lines: Sequence[Mapping[str, Any]], fields: Mapping[str, str], *, title: str, unit: str) -> None:
    """Fields of metrics.jsonl over the optimizer steps; a field that is null or absent in a line leaves a gap.

    Args:
        axes: Where to draw.
        lines: Lines of metrics.jsonl.
        fields: Field to the name in the legend.
        title: Of the panel.
        unit: Of the vertical axis.
    """
    steps = [line["step"] for line in lines]
    for (field, name), colour in zip(fields.items(), COLOURS, strict=False):
        values = [np.nan if line.get(field) is None else line[field] for line in lines]
        axes.plot(steps, values, label=name, color=colour, linewidth=1.6)
    axes.set(title=title, xlabel="optimizer step", ylabel=unit, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    if len(fields) > 1:
        axes.legend(frameon=False, fontsize="small")


def masked_pictures(axes: Axes, pictures: np.ndarray, masks: np.ndarray, *, columns: int, title: str) -> None:
    """Pictures in a grid, masked patches grey.

    Args:
        axes: Where to draw.
        pictures: float [N, H, W] or [N, H, W, 3], in [0, 1].
        masks: bool [N, h, w], True for the masked patches; H and W are multiples of h and w.
        columns: Pictures in a row.
        title: Of the panel.
    """
    if pictures.ndim == 3:
        pictures = pictures[..., None].repeat(3, axis=-1)
    count, height, width, _ = pictures.shape
    large = masks.repeat(height // masks.shape[1], axis=1).repeat(width // masks.shape[2], axis=2)
    pictures = np.where(large[..., None], masked_colour(), pictures)
    rows, gap = -(-count // columns), max(1, height // 8)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)


def masked_spectrogram(axes: Axes, energies: np.ndarray, mask: np.ndarray, *, seconds: float, title: str) -> None:
    """A spectrogram with the masked spans or patches greyed.

    Args:
        axes: Where to draw.
        energies: float [bands, frames], logarithmic, lowest band first.
        mask: bool [T] over the same time, True for masked frames; or [h, w] for patches, lowest band first.
        seconds: Length of the clip.
        title: Of the panel.
    """
    floor = np.quantile(energies, 0.02)
    place: Any = {"origin": "lower", "aspect": "auto", "extent": (0, seconds, 0, len(energies))}
    axes.imshow(energies, cmap="magma", vmin=floor, **place)
    if mask.ndim == 1:
        grey_spans(axes, mask, seconds)
    else:
        grey = np.concatenate([np.broadcast_to(masked_colour(), (*mask.shape, 3)), 0.85 * mask[..., None]], axis=2)
        axes.imshow(grey, interpolation="nearest", **place)
    axes.set(title=title, xlabel="seconds", ylabel="mel band")


def masked_tokens(axes: Axes, tokens: Sequence[str], mask: Sequence[bool], *, columns: int, title: str) -> None:
    """Tokens as running text on `columns` characters, the masked ones on grey.

    Args:
        axes: Where to draw.
        tokens: As they are to be shown, a space in front of those that begin a word.
        mask: True for the masked tokens.
        columns: Characters in a line.
        title: Of the panel.
    """
    place, line = 0, 0
    for token, hidden in zip(tokens, mask, strict=True):
        shown = token.replace("\n", " ").replace("$", r"\$")
        if place and place + len(shown) > columns:
            place, line = 0, line + 1
        shown = shown.lstrip() if place == 0 else shown
        box = {"facecolor": MASKED if hidden else "none", "edgecolor": "none", "pad": 1.0}
        axes.text(place, -line, shown, family="monospace", fontsize=7.5, va="top", bbox=box)
        place += len(token)
    axes.set(xlim=(0, columns * 1.02), ylim=(-line - 1.2, 0.4), title=title)
    axes.set_axis_off()


def feature_map(axes: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, title: str) -> None:
    """Points in the plane, coloured by class, with a legend; the axes of such a map mean nothing and are not drawn.

    Args:
        axes: Where to draw.
        points: float [N, 2].
        labels: int [N]; samples of the classes behind the first ten are left out.
        classes: Names.
        title: Of the panel.
    """
    for label, (name, colour) in enumerate(zip(classes, COLOURS, strict=False)):
        chosen = points[labels == label]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=9, color=colour, label=name, linewidths=0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_color("#CCCCCC")


def accuracy_bars(axes: Axes, values: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str) -> None:
    """Groups of bars with standard errors.

    Args:
        axes: Where to draw.
        values: What was judged, to the probe, to (accuracy, its standard error), both in [0, 1].
        title: Of the panel.
    """
    probes = list(next(iter(values.values())))
    width = 0.8 / len(probes)
    for i, (probe, colour) in enumerate(zip(probes, COLOURS, strict=False)):
        places = np.arange(len(values)) + (i - (len(probes) - 1) / 2) * width
        heights, errors = zip(*(100 * np.array(value[probe]) for value in values.values()), strict=True)
        axes.bar(places, heights, width * 0.92, yerr=errors, color=colour, label=probe, error_kw={"linewidth": 1})
        for place, height, error in zip(places, heights, errors, strict=True):
            axes.text(place, height + error + 1, f"{height:.0f}", ha="center", fontsize=7)
    axes.set(title=title, ylabel="accuracy, %", xticks=range(len(values)), ylim=(0, 125))
    axes.set_xticklabels([textwrap.fill(name, 9, break_long_words=False) for name in values], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", ncols=len(probes), loc="upper left")
