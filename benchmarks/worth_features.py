"""What worth.py judges features by: the networks of a run, how their tokens become features, and the probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from worth_parts import Part, Question

import d2v_fast
from d2v_fast.evaluation import extract, knn_correct, logistic_correct
from d2v_fast.run.weights import Network

NETWORKS: tuple[Network, ...] = ("student", "teacher")
PROBES: Mapping[str, Callable[..., np.ndarray]] = {
    "kNN": knn_correct,
    "kNN, own scale": lambda *given: knn_correct(*given, standardize=False),
    "linear": logistic_correct,
    "linear, own scale": lambda *given: logistic_correct(*given, standardize=False),
}
"""The same for features and floors: each is judged by the one that is best for it on the development questions."""

POOLS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "last": lambda x: x[:, 0, -1],
    "last, deviation": lambda x: x[:, :, -1],
    "all": lambda x: x[:, 0],
    "all, deviation": lambda x: x,
}
"""What is taken of the means and deviations over the tokens of each layer, [N, 2, layers, C]; the best, likewise."""

QUICK = (NETWORKS[:1], ("last", "all, deviation"), ("kNN", "linear"))
"""Networks, poolings and probes that a trial is judged with."""

Pair = tuple[np.ndarray, np.ndarray]
"""Of the parts to learn from and to judge by."""


def features(run: Path, variant: str, question: Question) -> Pair:
    """float32 [N, F] of a "network: pooling" for both parts."""
    network, _, pool = variant.partition(": ")
    return pooled(pool, every_layer(run, cast(Network, network), question))


def every_layer(run: Path, network: Network, question: Question) -> Pair:
    """Means and deviations over the tokens of each layer, float32 [N, 2, layers, C]."""
    encoder = d2v_fast.load(run, network)
    parts = (question.fit.inputs, question.judge.inputs)
    fit, judge = (extract(encoder, one, layers="all", deviation=True) for one in parts)
    layers = len(encoder.blocks) + 1
    return fit.reshape(len(fit), 2, layers, -1), judge.reshape(len(judge), 2, layers, -1)


def pooled(pool: str, pair: Pair) -> Pair:
    """What a pooling takes of `every_layer`, float32 [N, F]."""
    fit, judge = (np.ascontiguousarray(POOLS[pool](x).reshape(len(x), -1)) for x in pair)
    return fit, judge


def labelled(x: Pair, fit: Part, judge: Part) -> tuple[Any, Any, Any, Any]:
    """As probes take them."""
    return x[0], fit.labels, x[1], judge.labels


def answers(probe: str, one: Question, x: Pair) -> str:
    """A 1 for each sample that is named correctly, else a 0."""
    return "".join("01"[int(right)] for right in PROBES[probe](*labelled(x, one.fit, one.judge)))
