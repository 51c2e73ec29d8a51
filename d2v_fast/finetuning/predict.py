"""A fine-tuned network at work: predictions for new samples, and how good they are on labelled ones."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2v_fast import registry
from d2v_fast.config_json import with_overrides
from d2v_fast.data import DataSource, Openable
from d2v_fast.data.labels import Samples, open_labelled, open_samples
from d2v_fast.errors import ConfigError, DataError, RunError, SampleError
from d2v_fast.evaluation import metrics
from d2v_fast.evaluation.given import open_given
from d2v_fast.files import exists, write_whole
from d2v_fast.finetuning import imported
from d2v_fast.finetuning.tasks import TASKS, SupervisedTask
from d2v_fast.finetuning.whole import whole_batches
from d2v_fast.log import report, tell
from d2v_fast.models import Encoder

FORMATS = (".jsonl", ".csv")
"""How predictions are written."""


@dataclass(frozen=True)
class Predictions:
    """What a network says about N samples, in the order of their source."""

    names: tuple[str, ...]
    """[N]."""

    values: np.ndarray
    """float64 [N, K]: a probability for each class, or a value; nan where a sample could not be read. Of transcripts
    object [N], `Transcript` or None."""

    classes: tuple[str, ...]
    """[K], names of the classes; empty for values."""

    problems: dict[int, str]
    """Why a sample could not be read, by its number."""

    task: SupervisedTask
    """What they mean."""

    def __len__(self) -> int:
        return len(self.names)

    def records(self) -> list[dict[str, Any]]:
        """A dictionary for each sample: "name", then what the task says (`label`, `value`, ...), or "error"."""
        return [
            {"name": name} | ({"error": self.problems[i]} if i in self.problems else self.task.describe(self.values[i]))
            for i, name in enumerate(self.names)
        ]

    def write(self, path: str | Path) -> Path:
        """Write them, whole or not at all: a JSON object a line (.jsonl), or a table (.csv).

        In the table, each class has a column with its probability, called "p:CLASS"; several labels are joined by "|",
        and the times of words are left out.

        Raises:
            ConfigError: The name ends in something else.
            OSError: It cannot be written.
        """
        path = Path(path).expanduser()
        if path.suffix.lower() not in FORMATS:
            raise ConfigError(f"{path}: predictions are written as {' or '.join(FORMATS)}")
        records = self.records()
        if path.suffix.lower() == ".jsonl":
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            text = _table(records)
        write_whole(path, text)
        return path


@dataclass(frozen=True)
class Evaluation:
    """How good the predictions for labelled samples are."""

    samples: int
    """With a label that could be used, and read."""

    metrics: dict[str, float | None]
    """By name; None where a number means nothing for these samples."""

    intervals: dict[str, tuple[float, float]]
    """Confidence intervals by bootstrap over the samples, or over their groups."""

    classes: tuple[str, ...]
    """Names of the classes."""

    confusion: np.ndarray | None
    """classify: int64 [classes, classes], how often class i is taken for class j."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "samples": self.samples,
            "metrics": self.metrics,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "classes": list(self.classes),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }


class Finetuned:
    """The network of a fine-tuning, in eval mode.

    Attributes:
        config: What it was trained with.
        step: Optimizer steps of its checkpoint, the one with the best validation.
        task: What it does; `task.network` is the network, `task.network.encoder` its encoder.
        device: Where it computes.
    """

    def __init__(self, run: str | Path, *, device: str | torch.device | None = None, **decoding: Any) -> None:
        """Read a run.

        Args:
            run: The run's folder, or that of one of its checkpoints, or a fine-tuned model of another library
                (`finetuning.imported`).
            device: "cpu", "cuda", ...; by default a GPU if there is one.
            **decoding: Of a recogniser: `beam`, `language_model`, `lm_weight`, `word_score`, where they are to be
                others than in its configuration; see `CtcConfig`.

        Raises:
            RunError: There is no run, or it is no fine-tuning, or cannot be read.
            ConfigError: A value of `decoding` cannot be used, or this is no recogniser.
        """
        opened = imported.opened(run)
        config = opened.config
        if decoding:
            if config.task.name != "ctc":
                raise ConfigError(
                    f"{', '.join(decoding)}: {opened.path} is no recogniser, its task is {config.task.name}"
                )
            config = with_overrides(config, {f"ctc.{name}": value for name, value in decoding.items()})
        self.config, self.step = config, opened.step
        self.task: SupervisedTask = TASKS[config.task.name](config)
        opened.fill(self.task)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.task.to(self.device)
        self.task.network.eval()
        modality: Any = registry.get(config.model.modality)
        self._inputs = modality.for_features(config.inputs, opened.path)
        self.task.network.encoder.inputs = self._inputs

    @property
    def encoder(self) -> Encoder:
        """The encoder alone, with `features`."""
        return self.task.network.encoder

    def predict(self, data: Openable | Any, *, batch_size: int = 32) -> Predictions:
        """What the network says about each sample.

        Samples are used whole, and those of one shape are batched together: the result of one does not depend on the
        others. A sample that cannot be read is named and gets an "error".

        Args:
            data: A path, an array or a list of arrays, a table, a source of one's own; for texts also a list of `str`.
            batch_size: Samples in a batch, at most.

        Raises:
            DataError: The data cannot be used.
        """
        opened = self._open(data)
        source = opened.source
        outputs, problems = self._outputs(source, batch_size, opened.problems)
        names = tuple(source.name(i) for i in range(len(source)))
        return Predictions(names, self.task.read(outputs), self.config.task.classes, problems, self.task)

    def evaluate(
        self,
        data: Openable | Any,
        *,
        label: str | None = None,
        labels: Sequence[Any] | Any | None = None,
        group: str | None = None,
        groups: Sequence[Any] | Any | None = None,
        batch_size: int = 32,
        draws: int = 1000,
    ) -> Evaluation:
        """How good the network is on other labelled samples than those that chose its checkpoint.

        Args:
            data: See `finetune`, also for the next four.
            label: The column, or key, of the labels.
            labels: One label for each sample.
            group: The column that says what belongs together: drawn together for the intervals.
            groups: One group for each sample.
            batch_size: Samples in a batch, at most.
            draws: Of the bootstrap.

        Raises:
            DataError: Data or labels cannot be used.
        """
        config = self.config
        labelled = open_labelled(
            data,
            config.model.modality,
            self._inputs,
            kind=self.task.kind,
            label=label,
            labels=labels,
            group=group,
            groups=groups,
            classes=config.task.classes or None,
            embedding=config.model.embedding,
            allow_roots=config.loader.allow_roots,
        )
        if len(labelled.usable) == 0:
            raise DataError("data: no sample has a label that training knows")
        labelled = labelled.take(labelled.usable)
        outputs, problems = self._outputs(labelled.source, batch_size, {})
        good = np.array([i for i in range(len(labelled)) if i not in problems], dtype=np.int64)
        if len(good) == 0:
            raise DataError("data: no sample could be read")
        found, wanted = outputs[good], self.task.wanted(labelled)[good]
        if found.dtype != object and not np.isfinite(found).all():
            raise RunError("some outputs of the network are not finite: its training has failed")
        belongs = None if labelled.groups is None else labelled.groups[good].astype(str)
        values = self.task.measure(found, wanted)
        intervals = {
            name: interval
            for name, value in values.items()
            if value is not None and (interval := self._interval(name, found, wanted, belongs, draws)) is not None
        }
        table = metrics.confusion(found, wanted) if self.task.kind == "class" else None
        return Evaluation(len(good), values, intervals, config.task.classes, table)

    def _interval(
        self, name: str, outputs: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, draws: int
    ) -> tuple[float, float] | None:
        """None where there are too few samples or groups."""
        measure = self.task.measures[name]

        def statistic(chosen: np.ndarray) -> float:
            return measure(outputs[chosen], labels[chosen])

        try:
            return metrics.bootstrap(statistic, len(labels), groups=groups, draws=draws)
        except ValueError as error:
            tell(f"no interval for {name}: {error}")
            return None

    def _open(self, data: Any) -> Samples:
        """The samples: texts one by one, files of a list, or what `open_source` takes."""
        config, encoder = self.config, self.task.network.encoder
        modality: Any = registry.get(config.model.modality)
        roots = config.loader.allow_roots
        names = isinstance(data, (list, tuple)) and len(data) > 0 and all(isinstance(one, (str, Path)) for one in data)
        if names and not (modality.kind(self._inputs).documents and all(isinstance(one, str) for one in data)):
            return Samples(open_given(encoder, data, roots))
        embedding = config.model.embedding
        return open_samples(data, modality.name, self._inputs, embedding=embedding, allow_roots=roots)

    @torch.no_grad()
    def _outputs(
        self, source: DataSource, batch_size: int, known: Mapping[int, str]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """float64 [N, K], nan where a sample cannot be used; and why, by its number, with what is `known` of that."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        problems = dict(known)
        network = self.task.network
        outputs = self.task.nothing(len(source))
        failed = partial(_failed, problems)
        threads = self.config.loader.thread_count(gpu=self.device.type == "cuda")
        for batch in whole_batches(source, network.encoder.prepare, batch_size, failed, threads):
            result = network(batch.inputs.to(self.device))
            outputs[batch.sample_ids.numpy()] = self.task.answers(result, batch)
        outputs[list(known)] = self.task.nothing(len(known))
        return outputs, problems


def load(run: str | Path, *, device: str | torch.device | None = None, **decoding: Any) -> Finetuned:
    """The network of a fine-tuning, from its checkpoint with the best validation.

    Example:
        >>> d2v_fast.load("runs/classes").predict("new/").records()[0]["label"]

    Args:
        run: The run's folder, or that of one of its checkpoints.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        **decoding: See `Finetuned`.

    Raises:
        RunError: There is no run, or it is no fine-tuning, or cannot be read.
    """
    return Finetuned(run, device=device, **decoding)


def check_file(path: str | Path) -> None:
    """Refuse, before anything is computed, a file for predictions that could not be written.

    Raises:
        ConfigError: Its name ends in something else than `FORMATS`, or its folder is not there.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: predictions are written as {' or '.join(FORMATS)}")
    if not exists(path.parent):
        raise ConfigError(f"{path}: there is no folder {path.parent}")


def _failed(problems: dict[int, str], number: int, error: SampleError) -> None:
    problems[number] = error.reason
    report(error.name, error.reason)


def _cell(value: Any) -> Any:
    return "|".join(value) if isinstance(value, list) else value


def _table(records: Sequence[dict[str, Any]]) -> str:
    written = [
        {key: _cell(value) for key, value in record.items() if key not in ("probabilities", "words")}
        | {f"p:{name}": share for name, share in record.get("probabilities", {}).items()}
        for record in records
    ]
    columns = list(dict.fromkeys(key for record in written for key in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(written)
    return file.getvalue()
