"""Retrieval between paired sets."""

from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.evaluation import ranks, recall, retrieval

RNG = np.random.default_rng(0)


def test_pairs_are_found_as_far_as_they_are_alike():
    truth = RNG.normal(size=(200, 16))
    noisy = truth + 2.0 * RNG.normal(size=truth.shape)
    found = recall(noisy, truth)
    assert recall(truth, truth) == {1: 1.0, 5: 1.0, 10: 1.0}
    assert 0.2 < found[1] < found[5] < found[10] < 1
    assert recall(truth, truth[::-1].copy())[10] < 0.2


def test_ranks_are_those_of_a_full_sort():
    a, b = RNG.normal(size=(50, 8)) + 3, RNG.normal(size=(50, 8))
    x, y = ((part - part.mean(0)) / part.std(0) for part in (a, b))
    similarity = (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    expected = [int((similarity[i] > similarity[i, i]).sum()) for i in range(50)]
    assert ranks(a, b).tolist() == expected
    plain = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    assert ranks(a, b, standardize=False).tolist() == [int((plain[i] > plain[i, i]).sum()) for i in range(50)]


def test_pieces_change_nothing(monkeypatch):
    a, b = RNG.normal(size=(2, 97, 6))
    whole = ranks(a, b)
    monkeypatch.setattr(retrieval, "PIECE", 1000)
    np.testing.assert_array_equal(ranks(a, b), whole)


def test_features_that_are_all_the_same_find_nothing():
    assert recall(np.ones((30, 4)), np.ones((30, 4))) == {1: 0.0, 5: 0.0, 10: 0.0}
    twice = np.repeat(RNG.normal(size=(5, 4)), 2, axis=0)
    assert ranks(twice, twice).tolist() == [1] * 10


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), r"one shape \[N, C\], got \[3, 2\] and \[4, 2\]"),
        (np.ones(3), np.ones(3), "queries: features"),
        (np.ones((3, 2)), np.full((3, 2), np.inf), "targets: some features are not finite"),
    ],
)
def test_refuses_what_are_no_pairs(a, b, message):
    with pytest.raises(ValueError, match=message):
        ranks(a, b)
    with pytest.raises(ValueError, match="at 1 or more"):
        recall(np.eye(3), np.eye(3), at=(0, 1))
