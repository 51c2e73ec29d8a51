"""Numbers about a run while it trains, as `probe` has them, in its log lines; no bit of the run changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from d2v_fast.config import Config
from d2v_fast.data import Openable
from d2v_fast.data.holding import hashes
from d2v_fast.data.labelled import Labelled
from d2v_fast.data.labels import open_labelled
from d2v_fast.data.splits import hold_out
from d2v_fast.errors import ConfigError, DataError
from d2v_fast.evaluation.given import reading_threads
from d2v_fast.evaluation.knn import knn_correct
from d2v_fast.evaluation.linear import logistic_correct
from d2v_fast.evaluation.maker import Maker
from d2v_fast.evaluation.masked_views import lidar_of_layers
from d2v_fast.evaluation.networks import without_labels
from d2v_fast.evaluation.windows import Windows
from d2v_fast.log import tell
from d2v_fast.modalities import modality_of
from d2v_fast.models import Data2Vec, Encoder
from d2v_fast.run.weights import new_model

HELD_OUT = 0.25
"""Share of the samples that the probes are judged by."""

SAMPLES = 2000
"""Samples that are used at most."""


@dataclass
class ProbeDuring:
    """Probes a run while it trains; an `Observer` for `d2v_fast.pretrain(..., probe=ProbeDuring("labelled/"))`.

    kNN and a linear probe of the last layer, as `d2v_fast.probe` has them, and numbers without labels. The same is
    measured once of the run's random start, since what training adds is what lies above it. The held-out samples must
    not choose a checkpoint that is then judged by them.

    Fields of a log line: `probe_knn`, `probe_linear` (accuracies; `probe_knn_initial`, `probe_linear_initial` of the
    random start), `probe_rankme`, `probe_alpha`, `probe_uniformity`, `probe_lidar`.
    """

    data: Openable
    """Samples with classes, see `d2v_fast.probe`."""

    every: int = 500
    """Optimizer steps between two measurements; each is made at the first log line from there on, and at the end."""

    label: str | None = None
    """Where the classes are, a column for example."""

    group: str | None = None
    """What belongs together (speaker, patient): never on both sides."""

    network: Literal["student", "teacher"] = "student"
    """Whose features."""

    samples: int = SAMPLES
    """Used at most; which ones is decided by their names."""

    labels: Sequence[Any] | np.ndarray | None = None
    """One class for each sample of `data`, for arrays and sources of one's own."""

    batch_size: int = 32
    """Samples in a batch at most; only samples of one length are computed together."""

    _config: Config | None = field(default=None, init=False, repr=False)
    _parts: tuple[Labelled, Labelled] | None = field(default=None, init=False, repr=False)
    _inputs: Any = field(default=None, init=False, repr=False)
    _initial: dict[str, float | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: One has a value that cannot be used.
        """
        if self.every < 1 or self.samples < 10 or self.batch_size < 1:
            raise ConfigError(
                "probe: every and batch_size are at least 1 and samples at least 10, got "
                f"{self.every}, {self.batch_size} and {self.samples}"
            )
        if self.network not in ("student", "teacher"):
            raise ConfigError(f"probe.network is student or teacher, got {self.network!r}")

    def begin(self, config: Config, run: Path, device: torch.device) -> None:
        """Open the data and measure the run's random start.

        Raises:
            DataError: The data or its labels cannot be used.
        """
        self._config = config
        self._inputs = modality_of(config).for_features(config.inputs, run)
        every = open_labelled(
            self.data,
            config.model.modality,
            self._inputs,
            kind="class",
            label=self.label,
            group=self.group,
            labels=self.labels,
            embedding=config.model.embedding,
            threads=reading_threads(),
            allow_roots=config.loader.allow_roots,
        )
        usable = every.usable
        if len(usable) > self.samples:
            order = np.argsort(hashes([every.source.name(i) for i in usable.tolist()]), kind="stable")
            tell(f"probe: {self.samples:,} of {len(usable):,} samples with labels are used", logging.INFO)
            usable = np.sort(usable[order[: self.samples]])
        self._parts = hold_out(every.take(usable), HELD_OUT)
        start = new_model(config).student.encoder.eval().to(device)
        found = self._probed(start)[0]
        self._initial = {f"{name}_initial": value for name, value in found.items()}
        shown = ", ".join(f"{name.removeprefix('probe_')} {value:.3f}" for name, value in found.items())
        train, test = (len(part) for part in self._parts)
        tell(f"probe: random start {shown} ({train:,} samples to learn from, {test:,} for the test)", logging.INFO)

    def __call__(self, model: Data2Vec) -> dict[str, float | None]:
        """Measure the model as it is; the modes of its modules are the same afterwards.

        Data that cannot be read any more is told, and is not worth the run: the line then has no number.
        """
        encoder = model.student.encoder if self.network == "student" else model.teacher
        training = model.training
        model.eval()
        try:
            return {**self._measured(encoder), **self._initial}
        except (DataError, OSError) as error:
            tell(f"probe: left out this time: {error}")
            return {}
        finally:
            model.train(training)

    def _measured(self, encoder: Encoder) -> dict[str, float]:
        assert self._config is not None
        assert self._parts is not None
        accuracies, features = self._probed(encoder)
        last = len(encoder.blocks)
        source = self._parts[0].source
        free = without_labels(features)
        free["lidar"] = lidar_of_layers(encoder, self._config, source, [last], batch_size=self.batch_size)[last]
        return accuracies | {f"probe_{name}": value for name, value in free.items()}

    def _probed(self, encoder: Encoder) -> tuple[dict[str, float], np.ndarray]:
        """The accuracies, and the features of the training part, [N, C]."""
        assert self._parts is not None
        encoder.inputs = self._inputs
        (x, y), (z, wanted) = (self._features(encoder, part) for part in self._parts)
        if not (np.isfinite(x).all() and np.isfinite(z).all()):
            raise DataError("the features are not finite")
        return {
            "probe_knn": float(knn_correct(x, y, z, wanted).mean()),
            "probe_linear": float(logistic_correct(x, y, z, wanted).mean()),
        }, x

    def _features(self, encoder: Encoder, part: Labelled) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, C] of the last layer, and classes [N], of the samples that can be read."""
        assert part.labels is not None  # kind="class" has them
        last, numbers = [len(encoder.blocks)], range(len(part))
        windows = Windows(encoder, told=True)
        maker = Maker(encoder, part.source, last, "mean", self.batch_size, reading_threads(), windows)
        found = maker.of(numbers)
        if not len(found):
            raise DataError("none of its samples can be read")
        return found.features[:, 0], part.labels.numpy()[found.ids]
