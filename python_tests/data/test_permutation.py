from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from d2v_fast.data.permutation import permuted


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 97, 1000, 12_345])
def test_it_is_a_permutation_and_each_place_is_computed_by_itself(n):
    whole = permuted(3, "order", 5, n, np.arange(n))
    assert sorted(whole.tolist()) == list(range(n))
    places = np.random.default_rng(0).integers(0, n, 20)
    assert permuted(3, "order", 5, n, places).tolist() == whole[places].tolist()
    assert permuted(3, "order", 5, n, places[:1]).tolist() == whole[places[:1]].tolist()


def test_places_of_an_order_of_very_many_things():
    n = 10**15 + 7
    places = np.array([0, 1, n - 1, 12345678901234])
    found = permuted(0, "order", 0, n, places)
    assert len(set(found.tolist())) == 4
    assert found.min() >= 0
    assert found.max() < n
    assert permuted(0, "order", 0, n, places[:0]).tolist() == []


def test_seed_domain_and_epoch_give_other_orders():
    orders = {
        tuple(permuted(seed, domain, epoch, 50, np.arange(50)))
        for seed in (0, 1)
        for domain in ("a", "b")
        for epoch in (0, 1)
    }
    assert len(orders) == 8


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_order_of_few_things_is_as_likely_as_another(n):
    """Chi-squared below its 99.99 % point."""
    orders, draws = math.factorial(n), 30 * math.factorial(n)
    found = Counter(tuple(permuted(seed, "order", 0, n, np.arange(n))) for seed in range(draws))
    squares = sum((found.get(order, 0) - 30) ** 2 / 30 for order in found) + 30 * (orders - len(found))
    free = orders - 1
    assert squares < free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3  # Wilson and Hilferty


def test_an_order_of_many_things_has_no_structure():
    n = 40_000
    found = permuted(1, "order", 0, n, np.arange(n))
    assert abs(np.corrcoef(found, np.arange(n))[0, 1]) < 0.025
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.025
    assert abs(np.abs(np.diff(found)).mean() / n - 1 / 3) < 0.006
    both = np.histogram2d(np.arange(n), found, bins=20)[0]  # from every part to every part
    assert both.min() > 60
    assert both.max() < 140
    other = permuted(1, "order", 1, n, np.arange(n))
    assert abs(np.corrcoef(found, other)[0, 1]) < 0.025
