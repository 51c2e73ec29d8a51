"""Line charts as SVG inside an HTML page: axes with labels, one line for each run and field, no script.

Colours are classes, `s0` to `s7`, for which the page's style sheet has one value on light and another on dark ground;
dashes tell the fields of one run apart, so that colour alone never carries the meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from d2v_fast.report.markup import text

COLOURS = 8
"""Classes of colour; a ninth run has the first one again."""

DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""For the first, second, ... field of a run."""

MOST_POINTS = 600
"""Of one line: more than the chart has pixels. Longer ones keep the smallest and the largest value of each stretch."""

_ALL_POINTS = 6000
"""Of a chart with many lines; each has `_FEWEST` at least."""

_FEWEST = 40

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 12, 10, 44


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve."""

    name: str
    """In the legend."""

    x: Sequence[float]
    """Ascending."""

    y: Sequence[float | None]
    """As many; None, nan and infinity leave a gap."""

    colour: int = 0
    """Index of a class of colour."""

    dash: int = 0
    """Index into `DASHES`."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """What lies between two curves, drawn behind the lines."""

    name: str
    """In the legend."""

    x: Sequence[float]
    """Ascending."""

    low: Sequence[float]
    """As many."""

    high: Sequence[float]
    """As many."""


def chart(lines: Sequence[Line], *, title: str, x: str, y: str, zero: bool = False, bands: Sequence[Band] = ()) -> str:
    """A chart as an `<svg>` element. Every text is escaped.

    Args:
        lines: What to draw.
        title: Read aloud in place of the picture, with the last value of each line.
        x: What the horizontal axis is.
        y: What the vertical axis is, with its unit.
        zero: Whether 0 is always on the vertical axis.
        bands: Drawn behind the lines.
    """
    most = max(_FEWEST, min(MOST_POINTS, _ALL_POINTS // max(1, len(lines))))
    points = [_pairs(line, most) for line in lines]
    known = [pair for pairs in points for pair in pairs if pair is not None]
    known += [(a, b) for band in bands for part in (band.low, band.high) for a, b in zip(band.x, part, strict=True)]
    xs, ys = [a for a, _ in known] or [0.0], [b for _, b in known] or [0.0]
    left, right = min(xs), max(xs)
    down, up = min([*ys, 0.0] if zero else ys), max([*ys, 0.0] if zero else ys)
    vertical = ticks(down, up, 5)
    down, up = min(down, vertical[0]), max(up, vertical[-1])
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at_x(value: float) -> float:
        return _LEFT + (wide * (value - left) / (right - left) if right > left else wide / 2)

    def at_y(value: float) -> float:
        return _TOP + high - (high * (value - down) / (up - down) if up > down else high / 2)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(_spoken(title, lines))}">',
        '<g class="grid">',
    ]
    for value in vertical:
        place = f"{at_y(value):.1f}"
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place}" y2="{place}"/>')
    parts.append('</g><g class="tick">')
    for value in vertical:
        place = f"{at_y(value) + 4:.1f}"
        parts.append(f'<text x="{_LEFT - 7}" y="{place}" text-anchor="end">{number(value)}</text>')
    for value in (t for t in ticks(left, right, 6) if left <= t <= right):
        along = at_x(value)
        anchor = "end" if along > _WIDTH - 30 else "middle"
        parts.append(
            f'<text x="{along:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="{anchor}">{number(value)}</text>'
        )
    middle = _TOP + high / 2
    parts += [
        f'</g><line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_TOP + high}" y2="{_TOP + high}"/>',
        f'<text class="name" x="{_LEFT + wide / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{text(x)}</text>',
        f'<text class="name" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{text(y)}</text>',
    ]
    for band in bands:
        around = [*zip(band.x, band.high, strict=True), *reversed(list(zip(band.x, band.low, strict=True)))]
        path = "L".join(f"{at_x(a):.1f} {at_y(b):.1f}" for a, b in around)
        parts.append(f'<path class="band" d="M{path}Z"/>')
    for line, pairs in zip(lines, points, strict=True):
        parts.append(_drawn(line, [None if pair is None else (at_x(pair[0]), at_y(pair[1])) for pair in pairs]))
    return "".join(parts) + "</svg>"


def sample(line: Line) -> str:
    """A short piece of the line, for a legend."""
    style = f'class="line s{line.colour % COLOURS}"{_dashed(line)}'
    return f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true"><path {style} d="M1 5H27"/></svg>'


def sample_of_band() -> str:
    """A piece of a band, for a legend."""
    return '<svg class="key" viewBox="0 0 28 10" aria-hidden="true"><path class="band" d="M1 1H27V9H1Z"/></svg>'


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers around `low` to `high`: the first is at or below, the last at or above."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A few digits, without the noise of binary fractions: 0.3, 1,800, 5e-05."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.6f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def _pairs(line: Line, most: int) -> list[tuple[float, float] | None]:
    """Points, None for a gap; at most about `most`."""
    pairs = [
        None if b is None or not math.isfinite(b) else (float(a), float(b)) for a, b in zip(line.x, line.y, strict=True)
    ]
    if len(pairs) <= most:
        return pairs
    stretch = -(-2 * len(pairs) // most)
    kept: list[tuple[float, float] | None] = []
    for start in range(0, len(pairs), stretch):
        known = [pair for pair in pairs[start : start + stretch] if pair is not None]
        if not known:
            kept.append(None)
            continue
        kept += sorted({min(known, key=lambda pair: pair[1]), max(known, key=lambda pair: pair[1])})
    if pairs[-1] is not None and kept[-1] != pairs[-1]:
        kept.append(pairs[-1])
    return kept


def _drawn(line: Line, points: Sequence[tuple[float, float] | None]) -> str:
    """The path of a line, with a dot for a point that has no neighbour."""
    path, dots = "", ""
    for i, point in enumerate(points):
        if point is None:
            continue
        before = points[i - 1] if i else None
        after = points[i + 1] if i + 1 < len(points) else None
        path += f"{'M' if before is None else 'L'}{point[0]:.1f} {point[1]:.1f}"
        if before is None and after is None:
            dots += f'<circle class="dot s{line.colour % COLOURS}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="2.5"/>'
    return f'<path class="line s{line.colour % COLOURS}"{_dashed(line)} d="{path}"/>{dots}' if path else ""


def _dashed(line: Line) -> str:
    dash = DASHES[line.dash % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _spoken(title: str, lines: Sequence[Line]) -> str:
    ends = []
    for line in lines:
        known = [value for value in line.y if value is not None and math.isfinite(value)]
        ends.append(
            f"{line.name} ends at {number(float(f'{known[-1]:.3g}'))}" if known else f"{line.name} has no value"
        )
    return f"{title}: " + ", ".join(ends)
