"""The labelled samples of a fine-tuning as they are given, and split into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from d2v_fast.data import Openable
from d2v_fast.data.labelled import Labelled
from d2v_fast.data.labels import open_labelled
from d2v_fast.data.splits import compare, hold_out
from d2v_fast.errors import DataError
from d2v_fast.finetuning.config import FinetuneConfig, TaskConfig
from d2v_fast.finetuning.data import Sets, labels_of
from d2v_fast.finetuning.tasks import TASKS
from d2v_fast.finetuning.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Samples with labels, as they are given; see `data.labels.open_labelled`."""

    data: Openable
    """The samples; all that have a usable label take part."""

    label: str | None = None
    """The column, or key, of the labels."""

    labels: Sequence[Any] | Any | None = None
    """One label for each sample, for data that brings none."""

    group: str | None = None
    """The column that says what belongs together: held out as a whole."""

    groups: Sequence[Any] | Any | None = None
    """One group for each sample."""

    validation: Openable | None = None
    """Samples that choose the best checkpoint; None: `loader.holdout` of the data."""

    validation_labels: Sequence[Any] | Any | None = None
    """One label for each of these, for data that brings none."""


def open_sets(config: FinetuneConfig, inputs: Any, given: LabelledData) -> Sets:
    """Samples with labels, split into training and validation.

    Raises:
        DataError: They cannot be used.
    """
    kind, classes = TASKS[config.task.name].kind, config.task.classes or None
    common = {
        "modality": config.model.modality,
        "inputs": inputs,
        "kind": kind,
        "label": given.label,
        "embedding": config.model.embedding,
        "threads": config.loader.thread_count(gpu=torch.cuda.is_available()),
        "allow_roots": config.loader.allow_roots,
    }
    every = open_labelled(
        given.data, **common, classes=classes, labels=given.labels, group=given.group, groups=given.groups
    )
    if given.validation is not None:
        train = every.take(every.usable)
        held = open_labelled(
            given.validation, **common, classes=train.classes or None, labels=given.validation_labels, group=given.group
        )
        held = held.take(held.usable)
        compare(train, held)
        return Sets(train, held, every.left_out())
    if config.loader.holdout > 0:
        return Sets(*hold_out(every, config.loader.holdout), every.left_out())
    return Sets(every.take(every.usable), None, every.left_out())


def from_labels(config: FinetuneConfig, train: Labelled, *, new: bool) -> TaskConfig:
    """The task with the classes, or the mean and standard deviation, of the labels, or the symbols of transcripts."""
    task, ctc = config.task, config.ctc
    if train.kind == "transcript" and not task.classes:
        if ctc.vocabulary is None:
            return replace(task, classes=Vocabulary.of_texts(train.texts or (), case=ctc.case).symbols)
        return replace(task, classes=Vocabulary.load(ctc.vocabulary, case=ctc.case).symbols)
    if train.kind == "value" and new and (task.mean, task.std) == (0.0, 1.0):
        values = labels_of(train).double()
        std = float(values.std(unbiased=False))
        if std == 0:
            raise DataError(f"data: all {len(values)} targets are {float(values[0])}: there is nothing to learn")
        return replace(task, mean=float(values.mean()), std=std)
    return task if task.classes else replace(task, classes=train.classes)
