"""What the features of a run's networks and layers are worth on labelled data, beside its random start."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2v_fast.config import Config
from d2v_fast.data import Openable
from d2v_fast.data.labels import Labelled, open_labelled
from d2v_fast.data.splits import compare, held_out, hold_out
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation import label_free
from d2v_fast.evaluation.given import open_given, reading_threads
from d2v_fast.evaluation.layers import Layers, chosen
from d2v_fast.evaluation.masked_views import lidar_of_layers
from d2v_fast.evaluation.metrics import bootstrap
from d2v_fast.evaluation.probe import NEIGHBOURS, knn_correct, logistic_correct
from d2v_fast.evaluation.retrieval import ranks
from d2v_fast.evaluation.spool import Spool
from d2v_fast.interop import foreign
from d2v_fast.log import tell
from d2v_fast.models import Encoder
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import Network, load

PROBES = ("knn", "linear")
"""What is measured where there are labels."""

_ROWS = 5000
"""Samples that the numbers without labels are taken of at most."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """One network's features at one layer."""

    network: str
    layer: int

    values: dict[str, float]
    """"knn", "linear": accuracies; or "recall@1", ...: shares of pairs."""

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
    """What naming the most frequent class, or any partner, would reach."""

    groups: int | None
    """How many the test samples are in; None where each is by itself."""


def probe(
    run: str | Path,
    data: Openable,
    *,
    test: Openable | None = None,
    networks: Sequence[Network] = ("student", "teacher"),
    layers: Layers = "all",
    label: str | None = None,
    group: str | None = None,
    labels: Any = None,
    groups: Any = None,
    holdout: float = 0.25,
    neighbours: int = NEIGHBOURS,
    draws: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    allow_roots: Sequence[str] = (),
) -> Probing:
    """How well classes are read off the features, per network and layer, by kNN (cosine) and a linear probe.

    The run's random start is measured, too: what training added is what lies above it. A layer is chosen by a part of
    the training samples, never by those of the test; the same samples judge all networks.

    Args:
        run: A run's folder, or that of one checkpoint. A model of another library that `d2v_fast.load` takes has one
            network and no random start.
        data: Samples with classes, see `data.labels.open_labelled`: class folders, a manifest, archives, arrays, ...
        test: Others for the test; None holds out a part of `data`.
        networks: "student", "teacher".
        layers: See `evaluation.layers`.
        label: Where the classes are, a column for example; see `open_labelled`.
        group: What belongs together (speaker, patient): never on both sides, and drawn together for intervals.
        labels: One class for each sample of `data`, for arrays and sources of one's own.
        groups: One group for each sample of `data`, likewise.
        holdout: Share for the test, and of the rest for the choice of a layer.
        neighbours: Of the kNN probe.
        draws: Of the bootstrap.
        seed: Of the bootstrap.
        batch_size: Samples in a batch at most.
        device: A GPU if there is one.
        allow_roots: Folders that a manifest may name besides those below its own.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The data or its labels cannot be used.
        RunError: The run cannot be read.
    """
    setting = _Setting(run, networks, layers, batch_size, device)
    shared: dict[str, Any] = {
        "kind": "class",
        "label": label,
        "group": group,
        "embedding": setting.encoder.config,
        "threads": setting.threads,
        "allow_roots": allow_roots,
    }
    modality, inputs = setting.encoder.config.modality, setting.encoder.inputs
    every = open_labelled(data, modality, inputs, labels=labels, groups=groups, **shared)
    if test is None:
        train, judged = hold_out(every, holdout)
    else:
        train = every.take(every.usable)
        judged = open_labelled(test, modality, inputs, classes=every.classes, **shared)
        judged = judged.take(judged.usable)
        compare(train, judged)
    with tempfile.TemporaryDirectory(prefix="d2v-fast-") as folder:
        spools = setting.spool(Path(folder), {"train": train.source, "test": judged.source})
        good = {part: spools[setting.networks[0], part].good for part in ("train", "test")}
        train, judged = train.take(np.flatnonzero(good["train"])), judged.take(np.flatnonzero(good["test"]))
        y, z = _classes(train), _classes(judged)
        inner = held_out(_groups(train), holdout)  # chooses the layer
        lidar = setting.lidar(train.source)
        right: dict[tuple[str, str, int], np.ndarray] = {}
        choice: dict[tuple[str, str, int], float] = {}
        free: dict[tuple[str, int], dict[str, float]] = {}
        for network in setting.networks:
            for layer in setting.layers:
                a, b = spools[network, "train"].layer(layer), spools[network, "test"].layer(layer)
                free[network, layer] = without_labels(a) | lidar.get((network, layer), {})
                for name, correct in _probes(neighbours).items():
                    right[name, network, layer] = correct(a, y, b, z)
                    chose = correct(a[~inner], y[~inner], a[inner], y[inner])
                    choice[name, network, layer] = float(chose.mean())
    members = judged.groups
    chance = float((z == np.bincount(y).argmax()).mean())
    count = None if members is None else len(set(members.tolist()))
    judge = _Judge(right, choice, free, members, draws, seed)
    return judge.result(setting, PROBES, (len(y), len(z)), chance, count)


def retrieve(
    run: str | Path,
    data: Openable,
    pairs: Openable,
    *,
    networks: Sequence[Network] = ("student", "teacher"),
    layers: Layers = "all",
    at: Sequence[int] = (1, 5, 10),
    draws: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    allow_roots: Sequence[str] = (),
) -> Probing:
    """How often a sample's features find those of its partner among all partners; no labels are needed.

    The comparisons take each network at the layer with the best recall at the first of `at`, on these same samples: all
    networks have the same choice.

    Args:
        run: See `probe`.
        data: The samples, see `d2v_fast.embed`.
        pairs: As many; sample i is the partner of sample i. Both are sorted by name where they come from folders.
        networks: See `probe`.
        layers: See `probe`.
        at: Numbers k: the partner is among the k most similar.
        draws: See `probe`.
        seed: See `probe`.
        batch_size: See `probe`.
        device: See `probe`.
        allow_roots: See `probe`.

    Raises:
        ConfigError: An argument has a value that cannot be used.
        DataError: The data cannot be used, or there are not as many partners as samples.
        RunError: The run cannot be read.
    """
    setting = _Setting(run, networks, layers, batch_size, device)
    if not at or min(at) < 1:
        raise ConfigError(f"recall is taken at 1 or more, got {list(at)}")
    sources = {
        "data": open_given(setting.encoder, data, allow_roots),
        "pairs": open_given(setting.encoder, pairs, allow_roots),
    }
    if len(sources["data"]) != len(sources["pairs"]):
        raise DataError(f"there are {len(sources['data'])} samples and {len(sources['pairs'])} partners")
    names = [f"recall@{k}" for k in at]
    right: dict[tuple[str, str, int], np.ndarray] = {}
    free: dict[tuple[str, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="d2v-fast-") as folder:
        spools = setting.spool(Path(folder), sources)
        one, other = (spools[setting.networks[0], part].good for part in ("data", "pairs"))
        both = one & other
        if both.sum() < 2:
            raise DataError(f"only {both.sum()} pairs can be read; retrieval needs two")
        lidar = setting.lidar(sources["data"])
        for network in setting.networks:
            for layer in setting.layers:
                a = spools[network, "data"].layer(layer)[both[one]]
                b = spools[network, "pairs"].layer(layer)[both[other]]
                numbers = without_labels(a) | lidar.get((network, layer), {})
                free[network, layer] = numbers | {"alignment": label_free.alignment(a, b)}
                found = ranks(a, b)
                for k, name in zip(at, names, strict=True):
                    right[name, network, layer] = found < k
    choice = {key: float(right[names[0], key[1], key[2]].mean()) for key in right}
    judge = _Judge(right, choice, free, None, draws, seed)
    count = int(both.sum())
    return judge.result(setting, names, (count, count), 1 / count, None)


def without_labels(features: np.ndarray) -> dict[str, float]:
    """RankMe, alpha-ReQ and uniformity of the first 5000 samples; nan where one cannot be computed of these features.

    Args:
        features: [N, C].
    """
    some = features[:_ROWS]
    wanted: dict[str, Callable[[Any], float]] = {
        "rankme": label_free.rankme,
        "alpha": label_free.alpha_req,
        "uniformity": label_free.uniformity,
    }
    found = {}
    for name, number in wanted.items():
        try:
            found[name] = number(some)
        except ValueError:  # all alike, or too few directions: there is no such number
            found[name] = float("nan")
    return found


class _Setting:
    """The networks and layers that are asked for; the random start is the last one, where there is one."""

    def __init__(
        self,
        run: str | Path,
        networks: Sequence[Network],
        layers: Layers,
        batch_size: int,
        device: str | torch.device | None,
    ) -> None:
        if not networks or not set(networks) <= {"student", "teacher"} or batch_size < 1:
            raise ConfigError(
                f"networks are student, teacher or both, and batch_size at least 1, got {networks} and {batch_size}"
            )
        self.networks: list[Network] = [*networks, "initial"]
        if foreign.place(run) is not None:
            tell(f"{run} is one network of another library: there is no teacher beside it, and no random start")
            self.networks = ["student"]
        self._run, self._batch_size = run, batch_size
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder: Encoder = load(run, self.networks[0])
        self.layers = chosen(layers, len(self.encoder.blocks))
        self.threads = reading_threads()

    def lidar(self, source: Any) -> dict[tuple[str, int], dict[str, float]]:
        """LiDAR over the run's masks, for each network and layer; empty if it has no masks, as a fine-tuning."""
        config = None if foreign.place(self._run) is not None else Run(self._run).config
        if not isinstance(config, Config):
            return {}
        found: dict[tuple[str, int], dict[str, float]] = {}
        for network in self.networks:
            encoder = load(self._run, network).to(self._device)
            each = lidar_of_layers(encoder, config, source, self.layers, batch_size=self._batch_size)
            found |= {(network, layer): {"lidar": value} for layer, value in each.items()}
        return found

    def spool(self, folder: Path, sources: dict[str, Any]) -> dict[tuple[str, str], Spool]:
        """The features of each network and source, in files of a folder."""
        found: dict[tuple[str, str], Spool] = {}
        for network in self.networks:
            encoder = load(self._run, network).to(self._device)
            for part, source in sources.items():
                found[network, part] = Spool(
                    folder / f"{network}-{part}.npy",
                    encoder,
                    source,
                    self.layers,
                    batch_size=self._batch_size,
                    threads=self.threads,
                    what=f"{network}, {part}",
                )
        return found


@dataclass(frozen=True)
class _Judge:
    """Which test samples each (probe, network, layer) got right, and what follows."""

    right: dict[tuple[str, str, int], np.ndarray]
    choice: dict[tuple[str, str, int], float]
    free: dict[tuple[str, int], dict[str, float]]
    groups: np.ndarray | None
    draws: int
    seed: int

    def result(
        self, setting: _Setting, names: Sequence[str], samples: tuple[int, int], chance: float, groups: int | None
    ) -> Probing:
        scores = [
            Score(
                network,
                layer,
                {name: float(self.right[name, network, layer].mean()) for name in names},
                {name: self.interval(self.right[name, network, layer]) for name in names},
                self.free[network, layer],
            )
            for network in setting.networks
            for layer in setting.layers
        ]
        trained = [network for network in setting.networks if network != "initial"]
        pairs = [("teacher", "student")] if len(trained) == 2 else []
        pairs += [(network, "initial") for network in trained if "initial" in setting.networks]
        comparisons = [self.compared(name, a, b, setting.layers) for name in names for a, b in pairs]
        return Probing(scores, comparisons, samples, chance, groups)

    def compared(self, name: str, first: str, second: str, layers: Sequence[int]) -> Comparison:
        best = [max(layers, key=lambda layer: self.choice[name, network, layer]) for network in (first, second)]
        a, b = self.right[name, first, best[0]], self.right[name, second, best[1]]
        values = (float(a.mean()), float(b.mean()))
        return Comparison(
            name, first, second, (best[0], best[1]), values, self.interval(a.astype(np.int8) - b.astype(np.int8))
        )

    def interval(self, values: np.ndarray) -> Interval:
        try:
            return bootstrap(
                lambda drawn: float(values[drawn].mean()),
                len(values),
                groups=self.groups,
                draws=self.draws,
                seed=self.seed,
            )
        except ValueError as error:
            raise DataError(f"the test samples are too few for an interval: {error}") from error


def _probes(neighbours: int) -> dict[str, Callable[..., np.ndarray]]:
    return {"knn": lambda a, y, b, z: knn_correct(a, y, b, z, neighbours), "linear": logistic_correct}


def _classes(labelled: Labelled) -> np.ndarray:
    assert labelled.labels is not None  # kind="class" has them
    found: np.ndarray = labelled.labels.numpy()
    return found


def _groups(labelled: Labelled) -> Sequence[str]:
    if labelled.groups is not None:
        names: list[str] = labelled.groups.tolist()
        return names
    return [labelled.source.name(i) for i in range(len(labelled))]
