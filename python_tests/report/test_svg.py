"""Charts: what is drawn where."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from d2v_fast.report import svg
from d2v_fast.report.svg import Line, chart, number, ticks


def paths(drawn):
    """The points of each line."""
    root = ElementTree.fromstring(drawn)
    found = [element.get("d") for element in root.iter("path")]
    return [[tuple(map(float, p)) for p in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)] for path in found]


def test_points_stand_where_their_values_are():
    drawn = chart([Line(name="a", x=[0, 50, 100], y=[0, 5, 10])], title="t", x="step", y="loss")
    (low, middle, high), root = paths(drawn)[0], ElementTree.fromstring(drawn)
    width, height = map(float, root.get("viewBox").split()[2:])
    assert low[0] < middle[0] < high[0] <= width
    assert height > low[1] > middle[1] > high[1] >= 0
    assert middle[0] - low[0] == pytest.approx(high[0] - middle[0], abs=0.2)
    assert low[1] - middle[1] == pytest.approx(middle[1] - high[1], abs=0.2)
    texts = [element.text for element in root.iter("text")]
    assert {"0", "10", "100", "step", "loss"} <= set(texts)


def test_what_is_no_number_leaves_a_gap():
    y = [1.0, None, 2.0, 3.0, math.nan, math.inf, 4.0]
    drawn = chart([Line(name="a", x=range(7), y=y)], title="t", x="x", y="y")
    path = next(ElementTree.fromstring(drawn).iter("path")).get("d")
    assert path.count("M") == 3
    assert path.count("L") == 1
    assert drawn.count("<circle") == 2  # the first and the last, which have no neighbour
    assert "nan" not in drawn
    assert "inf" not in drawn


@pytest.mark.parametrize("y", [[], [None, None], [3.0], [2.0, 2.0], [0.0, 0.0], [1e-30, 2e-30], [-1e200, 1e200]])
def test_every_range_gives_a_chart(y):
    drawn = chart([Line(name="a", x=range(len(y)), y=y)], title="t", x="x", y="y", zero=True)
    for path in paths(drawn):
        assert all(math.isfinite(value) for point in path for value in point)


def test_long_curves_keep_their_peaks():
    y = [0.0] * 50_000
    y[31_234] = 100.0
    y[47_001] = -50.0
    drawn = chart([Line(name="a", x=range(len(y)), y=y)], title="t", x="x", y="y")
    ((*points,),) = paths(drawn)
    assert len(points) <= svg.MOST_POINTS + 2
    heights = [point[1] for point in points]
    flat = sorted(heights)[len(heights) // 2]
    assert min(heights) < flat < max(heights)
    assert len(drawn) < 20_000


def test_names_are_escaped_and_read_aloud():
    drawn = chart([Line(name="<a>&\"'", x=[0, 1], y=[1, 0.25])], title="<t>", x="<x>", y="<y>")
    root = ElementTree.fromstring(drawn)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "<t>: <a>&\"' ends at 0.25"


def test_lines_differ_without_colour_too():
    drawn = chart([Line(name=str(k), x=[0, 1], y=[k, k], dash=k) for k in range(3)], title="t", x="x", y="y")
    dashes = [path.get("stroke-dasharray") for path in ElementTree.fromstring(drawn).iter("path")]
    assert len(set(dashes)) == 3


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (5, 5, [5]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1 + 0.2, "0.3"), (1800, "1,800"), (5e-5, "5e-05"), (0, "0"), (-0.5, "-0.5"), (2.5e7, "2.5e+07")],
)
def test_numbers_are_short(value, expected):
    assert number(value) == expected
