"""Retrieval between paired sets: whether a sample's features find those of its partner among all others.

Pairs may be two parts of a recording, two crops of a picture, or the same sample in two networks of one width. Labels
are not needed. Cosine similarity decides, as in the kNN probe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2v_fast.evaluation.rows import PIECE, Rows

_QUERIES = 1024
"""Queries that are compared at a time."""

_EQUAL = 1e-12
"""Similarities that differ by less are equal: a product of matrices may round equal rows differently."""


def ranks(queries: np.ndarray, targets: np.ndarray, *, standardize: bool = True) -> np.ndarray:
    """How many other targets are at least as similar to each query as its own partner.

    Equal similarities count against the query, so features that are all the same are no better than chance. The queries
    are compared in pieces: memory does not grow with N squared.

    Args:
        queries: float [N, C].
        targets: float [N, C]; row i is the partner of row i.
        standardize: Subtract each set's own mean and divide by its own standard deviation, for each channel.

    Returns:
        int64 [N]; 0 where the partner is the most similar of all.

    Raises:
        ValueError: The sets are not of one shape [N, C], are empty, or hold values that are not finite.
    """
    a, b = Rows(queries, "queries"), Rows(targets, "targets")
    if a.shape != b.shape:
        raise ValueError(f"paired sets have one shape [N, C], got {list(a.shape)} and {list(b.shape)}")
    if standardize:
        for part in (a, b):
            part.standardise(*part.moments())
    found = np.zeros(len(a), dtype=np.int64)
    step = max(1, PIECE // _QUERIES)
    for start in range(0, len(a), _QUERIES):
        some = a.block(start, _QUERIES, unit=True)
        own = (some * b.block(start, _QUERIES, unit=True)).sum(1, keepdim=True) - _EQUAL
        for first in range(0, len(b), step):
            above = (some @ b.block(first, step, unit=True).T >= own).sum(1)
            found[start : start + len(some)] += above.numpy()
    found -= 1
    return found


def recall(
    queries: np.ndarray, targets: np.ndarray, at: Sequence[int] = (1, 5, 10), *, standardize: bool = True
) -> dict[int, float]:
    """Share of the queries whose partner is among the first k targets.

    Args:
        queries: float [N, C].
        targets: float [N, C]; row i is the partner of row i.
        at: The numbers k. Chance is k / N.
        standardize: See `ranks`.

    Returns:
        k to the share, in [0, 1].

    Raises:
        ValueError: See `ranks`; or a k below 1.
    """
    if any(k < 1 for k in at):
        raise ValueError(f"recall is taken at 1 or more, got {list(at)}")
    found = ranks(queries, targets, standardize=standardize)
    return {k: float((found < k).mean()) for k in at}
