"""Maps of features."""

from __future__ import annotations

import re

import numpy as np
import pytest

from d2v_fast.report import scatter
from d2v_fast.report.page import LARGEST


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_axes_are_the_directions_of_most_variance(random):
    x = random.standard_normal((300, 6)) @ random.standard_normal((6, 6))
    places, shares = scatter.principal(5 + 3 * x)
    standardised = (x - x.mean(0)) / x.std(0)
    values = np.linalg.svd(standardised, compute_uv=False) ** 2
    np.testing.assert_allclose(shares, values[:2] / values.sum(), rtol=1e-9)
    np.testing.assert_allclose((places**2).sum(0), values[:2], rtol=1e-9)
    np.testing.assert_allclose(scatter.principal(x)[0], places, atol=1e-9)  # the same features, the same map


def test_features_that_are_all_alike_have_a_map():
    places, shares = scatter.principal(np.ones((5, 3)))
    assert not places.any()
    assert not shares.any()
    assert "<svg" in scatter.scatter(places, None, (), title="all alike")
    assert scatter.principal(np.arange(4.0)[:, None])[0].shape == (4, 2)


def test_every_sample_has_a_mark_inside_of_the_frame(random):
    places = random.standard_normal((500, 2))
    places[0] = [1e9, -1e9]
    classes = np.arange(500) % 30
    made = scatter.scatter(places, classes, [f"class {i}" for i in range(30)], title="t")
    marks = re.findall(r"M(-?[\d.]+) (-?[\d.]+)", made)
    crosses = (classes // 8 == 2).sum()
    assert len(marks) == 500
    assert made.count("l6 6m0-6l-6 6") == crosses
    assert all(0 <= float(value) <= 440 for mark in marks for value in mark)
    groups = {scatter.mark(i) for i in range(24)}
    assert len(groups) == 24
    assert all(f'"{group}"' in made for group in [*groups, scatter.mark(-1)])


def test_the_legend_counts(random):
    classes = np.repeat(np.arange(26), 3)
    made = scatter.legend(classes, [f"<b>{i}" for i in range(26)])
    assert "&lt;b&gt;0 (3)" in made
    assert "2 other classes (6)" in made
    assert "<b>" not in made
    assert scatter.legend(None, ()) == ""


def test_many_points_are_small(random):
    made = scatter.scatter(random.standard_normal((1000, 2)), np.zeros(1000, dtype=int), ["a"], title="t")
    assert len(made) < LARGEST / 100
