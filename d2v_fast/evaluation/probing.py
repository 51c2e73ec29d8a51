"""What the features of a run's networks and layers are worth on labelled data, beside its random start."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from d2v_fast.data import Openable
from d2v_fast.data.labelled import LabelKind, Labelled
from d2v_fast.data.labels import open_labelled
from d2v_fast.data.splits import compare, held_out, hold_out
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation import label_free
from d2v_fast.evaluation.given import open_given
from d2v_fast.evaluation.judging import Judge, Probing, Statistic, share
from d2v_fast.evaluation.knn import NEIGHBOURS, knn_correct, knn_values
from d2v_fast.evaluation.layers import Layers
from d2v_fast.evaluation.linear import logistic_correct, ridge_values, tag_scores
from d2v_fast.evaluation.metrics import explained, mean_average_precision
from d2v_fast.evaluation.networks import Networks, without_labels
from d2v_fast.evaluation.retrieval import ranks
from d2v_fast.run.weights import Network

PROBES = ("knn", "linear")
"""What is measured where there are labels."""

Task = Literal["classify", "tag", "regress"]
"""What labels are, as in a fine-tuning: a class, any number of classes, a number."""

_KINDS: dict[Task, LabelKind] = {"classify": "class", "tag": "multi", "regress": "value"}


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
    task: Task = "classify",
    neighbours: int = NEIGHBOURS,
    temperature: float | None = None,
    draws: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    allow_roots: Sequence[str] = (),
) -> Probing:
    """How well labels are read off the features, per network and layer, by kNN (cosine) and a linear probe.

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
        task: What the labels are: "classify", a class for each sample; "tag", any number of classes, measured by the
            mean average precision; "regress", a number, measured by the share of the variance that is explained.
        neighbours: Of the kNN probe.
        temperature: Of its votes, see `knn.knn_correct`.
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
    if task not in _KINDS:
        raise ConfigError(f"there is no task {task!r} for a probe; there are {', '.join(_KINDS)}")
    if neighbours < 1 or (temperature is not None and not temperature > 0):
        raise ConfigError(f"neighbours are 1 or more, a temperature is above 0; got {neighbours} and {temperature}")
    statistic = _STATISTICS[task]
    setting = Networks(run, networks, layers, batch_size, device)
    shared: dict[str, Any] = {
        "kind": _KINDS[task],
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
        judged = open_labelled(test, modality, inputs, classes=every.classes or None, **shared)
        judged = judged.take(judged.usable)
        compare(train, judged)
    with tempfile.TemporaryDirectory(prefix="d2v-fast-") as folder:
        spools = setting.spool(Path(folder), {"train": train.source, "test": judged.source})
        good = {part: spools[setting.networks[0], part].good for part in ("train", "test")}
        train, judged = train.take(np.flatnonzero(good["train"])), judged.take(np.flatnonzero(good["test"]))
        y, z = _labels(train), _labels(judged)
        inner = held_out(_groups(train), holdout)  # chooses the layer
        lidar = setting.lidar(train.source)
        found: dict[tuple[str, str, int], np.ndarray] = {}
        choice: dict[tuple[str, str, int], float] = {}
        free: dict[tuple[str, int], dict[str, float]] = {}
        for network in setting.networks:
            for layer in setting.layers:
                a, b = spools[network, "train"].layer(layer), spools[network, "test"].layer(layer)
                free[network, layer] = without_labels(a) | lidar.get((network, layer), {})
                for name, made in _probes(task, neighbours, temperature).items():
                    found[name, network, layer] = made(a, y, b, z)
                    chose = made(a[~inner], y[~inner], a[inner], y[inner])
                    choice[name, network, layer] = statistic(chose, y[inner])
    judge = Judge(found, z, statistic, choice, free, judged.groups, draws, seed)
    return judge.result(setting.networks, setting.layers, PROBES, (len(y), len(z)), _chance(task, y, z))


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
    setting = Networks(run, networks, layers, batch_size, device)
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
    count = int(both.sum())
    judge = Judge(right, np.empty(count), share, choice, free, None, draws, seed)
    return judge.result(setting.networks, setting.layers, names, (count, count), 1 / count)


def _probes(task: Task, neighbours: int, temperature: float | None) -> dict[str, Callable[..., np.ndarray]]:
    """(features, labels, of the training part; those of the test part) -> what the statistic takes, by name."""
    if task == "classify":
        return {
            "knn": lambda a, y, b, z: knn_correct(a, y, b, z, neighbours, temperature=temperature),
            "linear": logistic_correct,
        }
    return {
        "knn": lambda a, y, b, z: knn_values(a, y, b, neighbours, temperature=temperature),
        "linear": lambda a, y, b, z: (tag_scores if task == "tag" else ridge_values)(a, y, b),
    }


_STATISTICS: dict[Task, Statistic] = {"classify": share, "tag": mean_average_precision, "regress": explained}


def _chance(task: Task, y: np.ndarray, z: np.ndarray) -> float:
    """What is reached without looking at the features."""
    if task == "classify":
        return float((z == np.bincount(y).argmax()).mean())
    return 0.0 if task == "regress" else float(z[:, z.any(0)].mean())


def _labels(labelled: Labelled) -> np.ndarray:
    assert labelled.labels is not None  # no task here has transcripts
    found: np.ndarray = labelled.labels.numpy()
    return found


def _groups(labelled: Labelled) -> Sequence[str]:
    if labelled.groups is not None:
        names: list[str] = labelled.groups.tolist()
        return names
    return [labelled.source.name(i) for i in range(len(labelled))]
