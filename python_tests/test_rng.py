"""The random numbers: restated in Python integers, known values, and statistics with fixed seeds."""

import math

import numpy as np
import pytest
import torch
from random_numbers import GOLDEN, WORD, Stream, key, mix, text

from d2v_fast import rng


def test_uniform_is_the_stream_restated_in_python():
    ids = np.array([0, 1, 2**62, -1, 77], dtype=np.int64)
    drawn = rng.uniform(2**63 - 1, "crop", 12, ids, 300)
    for row, sample in zip(drawn, ids.tolist(), strict=True):
        stream = Stream(2**63 - 1, "crop", 12, sample)
        assert row.tolist() == [(stream.next() >> 11) / 2**53 for _ in range(300)]


def test_some_streams_have_a_repaired_gamma():
    """2 % of the keys: the restatement above must meet some of them, or that line is not tested."""
    gammas = [mix((key(5, "x", 0, i) + 2 * GOLDEN) & WORD) | 1 for i in range(1000)]
    repaired = sum((gamma ^ gamma >> 1).bit_count() < 24 for gamma in gammas)
    assert repaired > 5
    drawn = rng.uniform(5, "x", 0, np.arange(1000), 2)
    streams = [Stream(5, "x", 0, i) for i in range(1000)]
    assert drawn.tolist() == [[(s.next() >> 11) / 2**53 for _ in range(2)] for s in streams]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_permutation_is_fisher_yates_restated_in_python(n):
    stream, expected = Stream(9, "shuffle", 4), []
    for i in range(n):
        j = stream.below(i + 1)
        expected.append(i)
        expected[i], expected[j] = expected[j], i
    assert rng.permutation(9, "shuffle", 4, n).tolist() == expected


def test_known_values():
    """The bits are part of the format: other numbers for the same seed break the resumption of existing runs."""
    assert mix(1) == 0x5692161D100B05E5  # SplitMix64's finaliser
    assert text("foobar") == 0x85944171F73967E8  # FNV-1a's own test value
    assert rng.derive(1) == 5225608189600411232
    assert rng.derive(1, "dropout", 7) == 2742479089674088647
    assert rng.uniform(1, "crop", 0, np.array([0, 1]), 2).tolist() == [
        [0.49680439374768914, 0.18108782694032854],
        [0.45296439064224825, 0.25972473686153086],
    ]
    assert rng.permutation(1, "shuffle", 0, 10).tolist() == [0, 5, 9, 4, 7, 8, 6, 2, 1, 3]


def test_derive():
    seeds = {
        rng.derive(seed, *parts)
        for seed in (0, 1)
        for parts in [(), ("a",), ("b",), ("a", "b"), ("ab",), (1,), ("1",), (1, 0), (0, 1), (-1,), (np.int64(5),)]
    }
    assert len(seeds) == 22
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert any(seed >= 2**62 for seed in seeds)
    assert rng.derive(3, "x", 2) == key(3, "x", 2) >> 1
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_uniform_depends_on_its_own_key_only():
    ids = np.arange(50)
    drawn = rng.uniform(1, "crop", 0, ids, 20)
    order = rng.permutation(1, "order", 0, 50)
    np.testing.assert_array_equal(rng.uniform(1, "crop", 0, ids[order], 20), drawn[order])
    np.testing.assert_array_equal(rng.uniform(1, "crop", 0, ids[7:9], 5), drawn[7:9, :5])
    for other in (
        rng.uniform(2, "crop", 0, ids, 20),
        rng.uniform(1, "flip", 0, ids, 20),
        rng.uniform(1, "crop", 1, ids, 20),
    ):
        assert not np.intersect1d(other, drawn).size


@pytest.mark.parametrize("along", ["count", "ids", "epochs", "seeds", "domains"])
def test_moments_and_correlations(along):
    """Numbers in a row along each part of the key: moments, equidistribution alone and in pairs, correlations."""
    n = 2**17
    if along == "count":
        u = rng.uniform(7, "test", 0, np.array([3]), n)[0]
    elif along == "ids":
        u = rng.uniform(7, "test", 0, np.arange(n), 1)[:, 0]
    else:
        n = 2**13
        one = np.array([3])
        keys = {
            "epochs": lambda i: (7, "test", i),
            "seeds": lambda i: (i, "test", 0),
            "domains": lambda i: (7, f"test {i}", 0),
        }[along]
        u = np.concatenate([rng.uniform(*keys(i), one, 1)[0] for i in range(n)])
    for power in (1, 2, 3, 4):
        expected, variance = 1 / (power + 1), 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs((u**power).mean() - expected) < 4 * math.sqrt(variance / n)
    for lag in (1, 2, 3, 4, 8, 16, 64):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4.5 / math.sqrt(n)
    assert chi_square_sigmas(np.bincount((u * 256).astype(int), minlength=256)) < 4.5
    assert chi_square_sigmas(np.bincount((u * 2**20).astype(int) % 256, minlength=256)) < 4.5
    pairs = (u[:-1:2] * 16).astype(int) * 16 + (u[1::2] * 16).astype(int)
    assert chi_square_sigmas(np.bincount(pairs, minlength=256)) < 4.5


def test_every_bit_is_fair_and_independent_of_the_others():
    bits = (rng.uniform(3, "bits", 0, np.arange(2**15), 1) * 2**53).astype(np.uint64)
    signs = 1.0 - 2.0 * ((bits >> np.arange(53, dtype=np.uint64)) & np.uint64(1))
    covariance = signs.T @ signs / len(signs)
    assert np.abs(signs.mean(0)).max() < 4.5 / math.sqrt(len(signs))
    assert np.abs(covariance - np.eye(53)).max() < 5 / math.sqrt(len(signs))


def test_permutations_are_uniform():
    orders = np.stack([rng.permutation(1, "order", epoch, 4) for epoch in range(12000)])
    assert chi_square_sigmas(np.unique(orders @ [64, 16, 4, 1], return_counts=True)[1]) < 4.5
    places = np.stack([rng.permutation(2, "order", epoch, 12) for epoch in range(6000)])
    for column in places.T:
        assert chi_square_sigmas(np.bincount(column, minlength=12)) < 4.5


def test_a_long_permutation_holds_every_number_once():
    n = 200_003
    order = rng.permutation(1, "order", 0, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4.5 / math.sqrt(n)


def test_empty():
    assert rng.uniform(1, "x", 0, np.array([], dtype=np.int64), 4).shape == (0, 4)
    assert rng.uniform(1, "x", 0, np.arange(3), 0).shape == (3, 0)
    assert rng.permutation(1, "x", 0, 0).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rng.uniform(-1, "x", 0, np.arange(3), 1), "seed must be 0 or more and below 2.*63, not -1"),
        (lambda: rng.uniform(2**63, "x", 0, np.arange(3), 1), "seed must be 0 or more and below"),
        (lambda: rng.uniform(1, "x", -2, np.arange(3), 1), "epoch must be 0 or more"),
        (lambda: rng.uniform(1, "x", 0, np.arange(3), -1), "count must be 0 or more"),
        (
            lambda: rng.uniform(1, "x", 0, np.arange(3.0), 1),
            r"ids must be a list of integers, not float64 of shape \[3\]",
        ),
        (
            lambda: rng.uniform(1, "x", 0, np.zeros((2, 2), dtype=np.int64), 1),
            r"ids must be a list.*\[2, 2\]; pass int64 \[N\]",
        ),
        (lambda: rng.permutation(1, "x", 0, 2.5), "n must be an integer, not 2.5"),
        (lambda: rng.derive(-1), "seed must be 0 or more"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def chi_square_sigmas(counts: np.ndarray) -> float:
    """How far the chi-square of equal classes lies from its mean, in its standard deviations."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float(abs(((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))
