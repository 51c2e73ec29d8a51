"""A random order of any number of things, of which each place is computed by itself: no array of all of them.

A Feistel network over a grid of a x b places, a and b about the root of their number: a place (left, right) is changed
in rounds, left by a random function of right, then right by one of left. Every round can be undone, so the whole is a
permutation of the grid; with random functions, four rounds and more are hard to tell from a permutation drawn at random
(Luby and Rackoff, 1988; for grids Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Places of the grid
beyond n are gone over again until they lie below it, which keeps it a permutation, of n things; there are few.
"""

from __future__ import annotations

import math

import numpy as np

from d2v_fast import rng

_ROUNDS = 12
"""Six are enough for many things; of five, some orders would be twice as likely as others."""


def permuted(seed: int, domain: str, epoch: int, n: int, places: np.ndarray) -> np.ndarray:
    """Where a random order of n things has what is asked for.

    Args:
        seed: Of the run.
        domain: What the order is for.
        epoch: Another order in each.
        n: How many things there are, 1 or more.
        places: int64 [k], in 0 ... n - 1.

    Returns:
        int64 [k]: the things at these places of the order.
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    found = np.array(places, dtype=np.int64)
    beyond = np.arange(len(found))
    while len(beyond):
        left, right = np.divmod(found[beyond], columns)
        for i in range(0, _ROUNDS, 2):
            left = (left + _drawn(seed, f"{domain} {i}", epoch, right, rows)) % rows
            right = (right + _drawn(seed, f"{domain} {i + 1}", epoch, left, columns)) % columns
        found[beyond] = left * columns + right
        beyond = beyond[found[beyond] >= n]
    return found


def _drawn(seed: int, domain: str, epoch: int, ids: np.ndarray, below: int) -> np.ndarray:
    """A random function of `ids` into 0 ... below - 1."""
    return (rng.uniform(seed, domain, epoch, ids, 1)[:, 0] * below).astype(np.int64)
