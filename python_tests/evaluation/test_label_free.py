"""Measures without labels, on features whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.evaluation import label_free


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_rankme_counts_directions(random, rank):
    axes = np.linalg.qr(random.standard_normal((32, 32)))[0][:rank]
    features = np.linalg.qr(random.standard_normal((500, rank)))[0] @ axes  # equal singular values
    assert label_free.rankme(features) == pytest.approx(rank, rel=1e-3)
    assert label_free.rankme(5 * features) == pytest.approx(rank, rel=1e-3)


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_alpha_req_is_the_slope_of_the_spectrum(random, slope):
    rows = np.linalg.qr(random.standard_normal((400, 41)))[0]
    rows = np.linalg.qr(rows - rows.mean(0))[0][:, :40]  # centred, orthonormal
    features = rows * np.arange(1, 41) ** (-slope / 2)
    assert label_free.alpha_req(features + 3.0) == pytest.approx(slope, rel=1e-6)


def test_lidar_counts_the_directions_that_tell_samples_apart(random):
    samples = np.zeros((400, 1, 12))
    samples[..., :3] = 10 * random.standard_normal((400, 1, 3))
    views = samples + random.standard_normal((400, 8, 12))
    assert label_free.lidar(views) == pytest.approx(3, abs=0.4)
    noise = random.standard_normal((400, 8, 12))
    assert label_free.lidar(noise) > 8  # means differ by chance alone, in all directions


def test_alignment_and_uniformity(random):
    x = random.standard_normal((300, 16))
    assert label_free.alignment(x, 2 * x) == pytest.approx(0, abs=1e-12)
    assert label_free.alignment(x, -x) == pytest.approx(4)
    points = x / np.linalg.norm(x, axis=1, keepdims=True)
    square = ((points[:, None] - points) ** 2).sum(2)
    pairs = ~np.eye(300, dtype=bool)
    assert label_free.uniformity(x) == pytest.approx(np.log(np.exp(-2 * square[pairs]).mean()))
    assert label_free.uniformity(x) < label_free.uniformity(x + 5)


def test_uniformity_in_pieces_is_the_same(random, monkeypatch):
    x = random.standard_normal((100, 8))
    whole = label_free.uniformity(x)
    monkeypatch.setattr(label_free, "_PIECE", 7)
    assert label_free.uniformity(x) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_free.rankme(np.zeros((3, 2))), "all features are zero"),
        (lambda: label_free.rankme(np.zeros(3)), r"features \[N, C\]"),
        (lambda: label_free.rankme([[np.nan]]), "not finite"),
        (lambda: label_free.alpha_req(np.ones((5, 4))), "three eigenvalues"),
        (lambda: label_free.lidar(np.zeros((3, 1, 2))), "two views"),
        (lambda: label_free.alignment(np.ones((2, 2)), np.ones((3, 2))), "one shape"),
        (lambda: label_free.uniformity(np.ones((1, 2))), "two rows"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
