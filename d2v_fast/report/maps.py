"""Maps of what a run's network makes of samples, coloured by label, beside its random start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2v_fast.config import Config
from d2v_fast.data import DataSource, Openable
from d2v_fast.data.holding import hashes
from d2v_fast.data.labelled import Labelled
from d2v_fast.data.labels import open_labelled
from d2v_fast.data.scan import Progress
from d2v_fast.data.splits import held_out
from d2v_fast.data.subset import Subset
from d2v_fast.errors import DataError
from d2v_fast.evaluation.given import open_given, reading_threads
from d2v_fast.evaluation.knn import knn_correct
from d2v_fast.evaluation.maker import Maker
from d2v_fast.evaluation.windows import Windows
from d2v_fast.models import Encoder
from d2v_fast.report.markup import text
from d2v_fast.report.scatter import legend, principal, scatter
from d2v_fast.report.seen import Seen
from d2v_fast.run.weights import Network, load

SAMPLES = 1000
"""Points of a map at most; which ones is decided by their names."""

HELD_OUT = 0.25
"""Share of the points that the kNN beside a map is judged by."""


@dataclass(frozen=True)
class Points:
    """Samples of a map."""

    source: DataSource

    classes: np.ndarray | None
    """int64 [N]; None where there are no labels."""

    names: tuple[str, ...]
    """Of the classes."""

    groups: list[str]
    """[N], what belongs together: the samples' names where nothing does."""

    note: str = ""
    """Why there are no labels."""


def feature_maps(
    runs: Sequence[Seen],
    data: Openable,
    *,
    label: str | None = None,
    group: str | None = None,
    network: Network = "student",
    allow_roots: Sequence[str] = (),
) -> str:
    """A map for each run, and one of its random start; runs that start alike share that.

    Args:
        runs: From `seen.read`, each with a checkpoint.
        data: What `d2v_fast.probe` takes; without labels the maps have one colour.
        label: Where the classes are, a column for example; None looks for them.
        group: What belongs together, see `d2v_fast.probe`.
        network: Whose features.
        allow_roots: See `data.open_source`.

    Raises:
        DataError: The data cannot be used.
        RunError: A run cannot be read.
    """
    parts, started = [], set()
    for seen in runs:
        config = seen.run.config
        encoders: list[tuple[str, Encoder]] = [(f"{seen.name}: {network}", load(seen.run.path, network))]
        points = _points(encoders[0][1], config, data, label, group, allow_roots)
        start = repr((config.model, config.seed))
        if isinstance(config, Config) and start not in started:
            started.add(start)
            encoders.append((f"{seen.name}: random start", load(seen.run.path, "initial")))
        parts += [_card(title, encoder, points) for title, encoder in encoders]
        if points.note:
            parts.append(f"<p>{text(points.note)}</p>")
    return f'<div class="grid2">{"".join(parts)}</div>'


def _points(
    encoder: Encoder, config: Any, data: Openable, label: str | None, group: str | None, allow_roots: Sequence[str]
) -> Points:
    """Samples with labels, if there are any; only where none were asked for by name may they be missing."""
    try:
        found: Labelled = open_labelled(
            data,
            config.model.modality,
            encoder.inputs,
            kind="class",
            label=label,
            group=group,
            embedding=config.model.embedding,
            threads=reading_threads(),
            allow_roots=allow_roots,
        )
    except DataError as error:
        if label is not None or group is not None:
            raise
        source = open_given(encoder, data, allow_roots)  # what is wrong with the data itself is said here
        chosen = _some(source, np.arange(len(source)))
        names = [source.name(i) for i in chosen.tolist()]
        return Points(
            Subset(source, chosen), None, (), names, note=f"Without colours, as there are no classes: {error}"
        )
    found = found.take(_some(found.source, found.usable))
    assert found.labels is not None  # kind="class" has them
    names = [found.source.name(i) for i in range(len(found))]
    groups = names if found.groups is None else [str(one) for one in found.groups.tolist()]
    return Points(found.source, found.labels.numpy(), found.classes, groups)


def _some(source: DataSource, numbers: np.ndarray) -> np.ndarray:
    if len(numbers) <= SAMPLES:
        return numbers
    order = np.argsort(hashes([source.name(i) for i in numbers.tolist()]), kind="stable")
    chosen: np.ndarray = np.sort(numbers[order[:SAMPLES]])
    return chosen


def _card(title: str, encoder: Encoder, points: Points) -> str:
    encoder = encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    source, last = points.source, [len(encoder.blocks)]
    with Progress(f"map, {title}", len(source)) as progress:
        maker = Maker(encoder, source, last, "mean", 32, reading_threads(), Windows(encoder, told=True))
        found = maker.of(range(len(source)), progress.advance)
    if len(found) < 2:
        raise DataError("fewer than two samples of --data can be read")
    features = found.features[:, 0]
    if not np.isfinite(features).all():
        return f'<article class="card"><h3>{text(title)}</h3><p>Some of its features are not finite.</p></article>'
    places, shares = principal(features)
    classes = None if points.classes is None else points.classes[found.ids]
    words = (
        f"{len(features):,} samples, the mean over the tokens of the last layer; along its first two principal "
        f"components, which hold {shares[0]:.0%} and {shares[1]:.0%} of the variance. "
        + _knn(features, classes, points, found.ids)
    )
    drawn = scatter(places, classes, points.names, title=f"{title}: a map of {len(features)} samples")
    return (
        f'<article class="card"><h3>{text(title)}</h3>{legend(classes, points.names)}{drawn}'
        f'<p class="normal">{text(words)}</p></article>'
    )


def _knn(features: np.ndarray, classes: np.ndarray | None, points: Points, ids: np.ndarray) -> str:
    """What a kNN makes of them, which sees all directions and not only two."""
    if classes is None:
        return ""
    groups = [points.groups[i] for i in ids.tolist()]
    if len(set(groups)) < 8:
        return ""
    test = held_out(groups, HELD_OUT)
    right = knn_correct(features[~test], classes[~test], features[test], classes[test])
    chance = (classes[test] == np.bincount(classes[~test]).argmax()).mean()
    return f"kNN accuracy in all directions, on the {test.sum():,} held out: {right.mean():.0%} (chance {chance:.0%})."


def newest(runs: Sequence[Seen]) -> tuple[tuple[Path, int], ...]:
    """What the maps depend on: the newest checkpoint of each run."""
    return tuple((seen.run.path, max(seen.run.checkpoints(), default=-1)) for seen in runs)
