"""A map of features in the plane, coloured by label, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2v_fast.report.markup import text
from d2v_fast.report.svg import COLOURS

SHAPES = 3
"""Round, square and crosses: with the colours, what tells classes apart."""

CLASSES = COLOURS * SHAPES
"""Classes that have a mark of their own; all others share one."""

_SIDE, _EDGE = 440, 14


def principal(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components, after each channel has been standardised.

    Args:
        features: [N, C], finite, N at least 2.

    Returns:
        Places float64 [N, 2], and the share of the variance of each of both, float64 [2]. Signs are fixed by the
        largest entry of an axis, so that the same features give the same map.
    """
    x = np.asarray(features, dtype=np.float64)
    std = x.std(0)
    x = (x - x.mean(0)) / np.where(std > 0, std, 1)
    values, axes = np.linalg.eigh(x.T @ x)  # of [C, C]
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), range(axes.shape[1])] < 0, -1, 1)
    share = values[::-1][:2].clip(0) / max(float(values.clip(0).sum()), 1e-30)
    places, shares = np.zeros((len(x), 2)), np.zeros(2)
    places[:, : axes.shape[1]], shares[: len(share)] = x @ axes, share
    return places, shares


def scatter(places: np.ndarray, classes: np.ndarray | None, names: Sequence[str], *, title: str) -> str:
    """The map as an `<svg>` element; every text is escaped.

    Args:
        places: [N, 2].
        classes: int [N], indices into `names`; None: there are none.
        names: Of the classes.
        title: Read aloud in place of the picture.
    """
    low, high = np.quantile(places, [0.002, 0.998], axis=0)  # a single sample far away must not squeeze all others
    middle, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-12)
    at = np.clip((places - middle) / reach, -1.02, 1.02) * (_SIDE / 2 - _EDGE) * [1, -1] + _SIDE / 2
    groups = np.full(len(places), -1) if classes is None else np.where(classes < CLASSES, classes, -1)
    marks = "".join(
        f'<path class="{mark(int(group))}" d="{_points(at[groups == group], int(group))}">'
        f"<title>{text(_name(int(group), names, classes))}</title></path>"
        for group in np.unique(groups)
    )
    return (
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{text(title)}">'
        f'<rect class="frame" x="1" y="1" width="{_SIDE - 2}" height="{_SIDE - 2}" rx="6"/>{marks}</svg>'
    )


def legend(classes: np.ndarray | None, names: Sequence[str]) -> str:
    """A list of the classes that occur, with their marks and how many samples they have."""
    if classes is None:
        return ""
    counts = np.bincount(classes, minlength=len(names))
    items = [(group, names[group], int(counts[group])) for group in range(min(len(names), CLASSES)) if counts[group]]
    rest = int(counts[CLASSES:].sum())
    items += [(-1, f"{len(names) - CLASSES} other classes", rest)] if rest else []
    return (
        '<ul class="legend">'
        + "".join(
            f'<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true"><path class="{mark(group)}" '
            f'd="{_points(np.array([[14.0, 5.0]]), group)}"/></svg>{text(name)} ({count:,})</li>'
            for group, name, count in items
        )
        + "</ul>"
    )


def mark(group: int) -> str:
    """Class of the marks of a class of samples; -1 is that of all without one of their own."""
    return "mark rest" if group < 0 else f"mark m{group // COLOURS} s{group % COLOURS}"


def _points(at: np.ndarray, group: int) -> str:
    """A path of one mark after the other: lines of no length, whose caps are drawn, or crosses."""
    if group // COLOURS == 2:
        return "".join(f"M{x - 3:.0f} {y - 3:.0f}l6 6m0-6l-6 6" for x, y in at)
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at)


def _name(group: int, names: Sequence[str], classes: np.ndarray | None) -> str:
    if group >= 0:
        return names[group]
    return "samples" if classes is None else "other classes"
