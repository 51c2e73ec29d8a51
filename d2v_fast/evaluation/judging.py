"""From what each probe made of the same test samples to numbers, intervals and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2v_fast.errors import DataError
from d2v_fast.evaluation.metrics import bootstrap

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """One network's features at one layer."""

    network: str
    layer: int

    values: dict[str, float]
    """"knn", "linear": accuracies; of several classes the mean average precision; of numbers the share of their
    variance that is explained; or "recall@1", ...: shares of pairs."""

    intervals: dict[str, Interval]
    """For each of them, by bootstrap over samples, or over groups where there are groups."""

    label_free: dict[str, float]
    """"rankme", "alpha", "uniformity" of `label_free`, of pairs also "alignment", of a pretraining run "lidar" over its
    masks; nan where there is none, as of features that are all alike."""


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same samples, each at the layer that a part of the training samples chose."""

    what: str
    """"knn", ..."""

    first: str
    second: str
    layers: tuple[int, int]
    values: tuple[float, float]
    interval: Interval
    """Of the first's value minus the second's; the samples, or the groups, are drawn together."""

    @property
    def difference(self) -> float:
        """Of the first minus the second."""
        return self.values[0] - self.values[1]

    @property
    def better(self) -> str | None:
        """The better of the two; None if the interval holds 0."""
        low, high = self.interval
        return self.first if low > 0 else self.second if high < 0 else None

    def __str__(self) -> str:
        low, high = self.interval
        verdict = "no difference is shown" if self.better is None else f"the {self.better} is better"
        (a, b), (x, y) = self.values, self.layers
        return (
            f"{self.what}: {self.first} {a:.3f} (layer {x}), {self.second} {b:.3f} (layer {y}); "
            f"difference {self.difference:+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}"
        )


@dataclass(frozen=True)
class Probing:
    """What `probe` or `retrieve` found."""

    scores: list[Score]
    """Network by network, layer by layer."""

    comparisons: list[Comparison]
    """Teacher against student first, then each against the random start."""

    samples: tuple[int, int]
    """Of training and of test; pairs of both."""

    chance: float
    """What naming the most frequent class, or any partner, or the mean would reach; of several classes what any order
    of the samples would."""

    groups: int | None
    """How many the test samples are in; None where each is by itself."""


Statistic = Callable[[np.ndarray, np.ndarray], float]
"""(what a probe made of some samples, their labels) -> a number."""


def share(made: np.ndarray, wanted: np.ndarray) -> float:
    """The mean of what was right."""
    return float(made.mean())


@dataclass(frozen=True)
class Judge:
    """What each (probe, network, layer) made of the same M test samples, and what follows."""

    made: Mapping[tuple[str, str, int], np.ndarray]
    """[M, ...]."""

    wanted: np.ndarray
    """[M, ...], labels; where `statistic` needs none, anything of that length."""

    statistic: Statistic

    choice: Mapping[tuple[str, str, int], float]
    """The same number of the samples that choose a layer."""

    free: Mapping[tuple[str, int], dict[str, float]]
    """Numbers without labels by (network, layer)."""

    groups: np.ndarray | None
    draws: int
    seed: int

    def result(
        self,
        networks: Sequence[str],
        layers: Sequence[int],
        names: Sequence[str],
        samples: tuple[int, int],
        chance: float,
    ) -> Probing:
        """Numbers, intervals and verdicts.

        Raises:
            DataError: The test samples are too few for an interval.
        """
        scores = [
            Score(
                network,
                layer,
                {name: self.statistic(self.made[name, network, layer], self.wanted) for name in names},
                {name: self.interval(self.made[name, network, layer]) for name in names},
                self.free[network, layer],
            )
            for network in networks
            for layer in layers
        ]
        trained = [network for network in networks if network != "initial"]
        pairs = [("teacher", "student")] if len(trained) == 2 else []
        pairs += [(network, "initial") for network in trained if "initial" in networks]
        comparisons = [self.compared(name, a, b, layers) for name in names for a, b in pairs]
        groups = None if self.groups is None else len(set(self.groups.tolist()))
        return Probing(scores, comparisons, samples, chance, groups)

    def compared(self, name: str, first: str, second: str, layers: Sequence[int]) -> Comparison:
        """Two networks, each at the layer that was chosen for it."""
        best = [max(layers, key=lambda layer: self.choice[name, network, layer]) for network in (first, second)]
        a, b = self.made[name, first, best[0]], self.made[name, second, best[1]]
        values = (self.statistic(a, self.wanted), self.statistic(b, self.wanted))
        return Comparison(name, first, second, (best[0], best[1]), values, self.interval(a, b))

    def interval(self, made: np.ndarray, other: np.ndarray | None = None) -> Interval:
        """Of the number, or of its difference to that of another probe, by bootstrap."""

        def number(drawn: np.ndarray) -> float:
            found = self.statistic(made[drawn], self.wanted[drawn])
            return found if other is None else found - self.statistic(other[drawn], self.wanted[drawn])

        try:
            return bootstrap(number, len(made), groups=self.groups, draws=self.draws, seed=self.seed)
        except ValueError as error:
            raise DataError(f"the test samples are too few for an interval: {error}") from error
