"""A fine-tuned network at work: predictions for new samples, and how good they are on labelled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.config_json import with_overrides
from d2v_fast.data import DataSource, Openable
from d2v_fast.data.labels import open_labelled
from d2v_fast.data.samples import Samples, open_samples
from d2v_fast.errors import ConfigError, DataError, RunError, SampleError
from d2v_fast.evaluation import metrics
from d2v_fast.evaluation.given import open_given
from d2v_fast.evaluation.windows import Part, Windows
from d2v_fast.finetuning import imported
from d2v_fast.finetuning.predictions import Evaluation, Predictions, Windowed
from d2v_fast.finetuning.tasks import TASKS, SupervisedTask
from d2v_fast.finetuning.whole import whole_batches
from d2v_fast.log import report, tell
from d2v_fast.models import Encoder


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

    def predict(
        self,
        data: Openable | Any,
        *,
        batch_size: int = 32,
        window: float | None = None,
        overlap: float | None = None,
    ) -> Predictions:
        """What the network says about each sample.

        Samples are used whole, and those of one shape are batched together: the result of one does not depend on the
        others. Those longer than the inputs of the training are taken in windows, see `evaluation.windows`: the outputs
        of a recogniser are joined and decoded as one recording, the answers to other tasks are averaged over the
        windows. A sample that cannot be read is named and gets an "error".

        Args:
            data: A path, an array or a list of arrays, a table, a source of one's own; for texts also a list of `str`.
            batch_size: Samples, or windows, in a batch, at most.
            window: Seconds of a window (of text: tokens); None: the longest input of the training; 0: all is used
                whole.
            overlap: Of two windows; None: a fifth of a window.

        Raises:
            ConfigError: `window` or `overlap` cannot be used.
            DataError: The data cannot be used.
        """
        windows = Windows(self.task.network.encoder, window, overlap)
        opened = self._open(data)
        source = opened.source
        found = self._outputs(source, batch_size, opened.problems, windows)
        names = tuple(source.name(i) for i in range(len(source)))
        parts = {i: Windowed(one.times, self.task.read(one.values)) for i, one in found.windows.items()}
        values = self.task.read(found.outputs)
        return Predictions(names, values, self.config.task.classes, found.problems, self.task, parts)

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
        window: float | None = None,
        overlap: float | None = None,
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
            window: See `predict`.
            overlap: See `predict`.

        Raises:
            ConfigError: `window` or `overlap` cannot be used.
            DataError: Data or labels cannot be used.
        """
        config = self.config
        windows = Windows(self.task.network.encoder, window, overlap)
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
        for remark in self.task.remarks(labelled):
            tell(remark)
        given = self._outputs(labelled.source, batch_size, {}, windows)
        outputs, problems = given.outputs, given.problems
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
    def _outputs(self, source: DataSource, batch_size: int, known: Mapping[int, str], windows: Windows) -> _Outputs:
        """Of all samples; `known` says why some cannot be used."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        found = _Outputs(self.task.nothing(len(source)), dict(known), {})
        network = self.task.network
        failed = partial(_failed, found.problems)
        threads = self.config.loader.thread_count(gpu=self.device.type == "cuda")
        long = {i: one for i in range(len(source)) if (one := windows.long(source, i)) is not None and i not in known}
        short = [i for i in range(len(source)) if i not in long]
        for batch in whole_batches(source, network.encoder.prepare, batch_size, failed, threads, only=short):
            result = network(batch.inputs.to(self.device))
            found.outputs[batch.sample_ids.numpy()] = self.task.answers(result, batch)
        join = _Join(self.task, windows, found)
        for parts, inputs in windows.batches(long.items(), batch_size, threads, failed, source.name):
            join.add(parts, network(inputs.to(self.device)))
        found.outputs[list(known)] = self.task.nothing(len(known))
        return found


@dataclass(frozen=True)
class _Outputs:
    """Of the network, for N samples."""

    outputs: np.ndarray
    """What `SupervisedTask.nothing` makes room for."""

    problems: dict[int, str]
    """Why a sample cannot be used, by its number."""

    windows: dict[int, Windowed]
    """Of long samples, with outputs for values; of tasks with one answer for each sample."""


class _Join:
    """Puts the outputs for the windows of a sample together."""

    def __init__(self, task: SupervisedTask, windows: Windows, found: _Outputs) -> None:
        self._task, self._windows, self._found = task, windows, found
        self._waiting: dict[int, list[tuple[Part, Tensor]]] = {}

    def add(self, parts: Sequence[Part], outputs: Tensor) -> None:
        """Takes outputs [B, K], or [B, T, K] where the task has some for each token."""
        for part, output in zip(parts, outputs, strict=True):
            if part.sample in self._found.problems:
                self._waiting.pop(part.sample, None)
                continue
            kept = self._windows.middle(part, output) if self._task.per_token else output
            self._waiting.setdefault(part.sample, []).append((part, kept.cpu().clone()))
            if part.last:
                self._finish(part.sample, self._waiting.pop(part.sample))

    def _finish(self, sample: int, made: list[tuple[Part, Tensor]]) -> None:
        outputs = [output for _, output in made]
        if self._task.per_token:
            self._found.outputs[sample] = self._task.answer(torch.cat(outputs))
            return
        values = torch.stack(outputs).double().numpy()
        times = np.array([(part.window.begin, part.window.end) for part, _ in made]) * self._windows.seconds
        self._found.outputs[sample] = self._task.pooled(values, times[:, 1] - times[:, 0])
        self._found.windows[sample] = Windowed(times, values)


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


def _failed(problems: dict[int, str], number: int, error: SampleError) -> None:
    problems[number] = error.reason
    report(error.name, error.reason)
