"""Fine-tuning: from a pretrained run and labels to a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from d2v_fast import registry
from d2v_fast.config_json import dotted, with_overrides
from d2v_fast.data import Openable
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.data.labels import Labelled, open_labelled
from d2v_fast.data.splits import compare, hold_out
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.finetuning import imported
from d2v_fast.finetuning.config import FinetuneConfig, TaskConfig
from d2v_fast.finetuning.data import LabelledLoader, Sets, labels_of
from d2v_fast.finetuning.recipes import RECIPES
from d2v_fast.finetuning.tasks import TASKS, SupervisedTask
from d2v_fast.finetuning.vocabulary import Vocabulary
from d2v_fast.interop import foreign
from d2v_fast.interop.described import described
from d2v_fast.models.config import ModelConfig
from d2v_fast.run.evidence import evidence, folder_of
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import encoder_weights, fill, put
from d2v_fast.training.fit import Engine, Fit, Resume
from d2v_fast.training.loop import Loop
from d2v_fast.training.out_of_memory import explained
from d2v_fast.training.precision import autocast, check_attention, own_modes
from d2v_fast.training.pretraining import begun


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


class Finetuning:
    """The loop with a task on labels, on one device.

    Attributes:
        config: What is trained and how.
        out: The run's folder.
        device: Where it is trained.
        task: What a step computes.
        sets: What it is trained and validated on.
        loop: The steps.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        given: LabelledData,
        out: str | Path,
        *,
        device: str | torch.device | None = None,
    ) -> None:
        """Open the data and build the network; nothing is written yet.

        Args:
            config: What `settle` gave. Classes, mean and standard deviation are taken from the labels, if it has none.
            given: Samples and labels.
            out: The run's folder, new or of an earlier start of this run.
            device: "cpu", "cuda", ...; by default a GPU if there is one.

        Raises:
            ConfigError: A value cannot be used with these labels, or on this device.
            DataError: The data or its labels cannot be used.
            RunError: The pretrained weights cannot be used.
        """
        self.out = folder_of(out)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._modality: Any = registry.get(config.model.modality)
        self._start = start = evidence(self.out) is None
        if (self.out / "config.json").is_file():
            inputs = self._modality.for_features(config.inputs, self.out)
        else:
            inputs = config.inputs
        self.sets = open_sets(config, inputs, given)
        self.config = config = replace(config, task=_from_labels(config, self.sets.train, new=start))
        if config.task.patience is not None and self.sets.validation is None:
            raise ConfigError("task.patience is given, but nothing is validated: give validation data or a holdout")
        autocast(config.precision, self.device)  # refuses a format that the device does not know
        check_attention(config, self.device)
        with explained("while the model was built"), own_modes(self.device):
            self.task: SupervisedTask = TASKS[config.task.name](config)
            self.task.network.encoder.inputs = inputs
            self.sets = replace(self.sets, train=self.task.trainable(self.sets.train))
            if start and not config.encoder.from_scratch:
                load_pretrained(self.task, config)
            self.task.to(self.device)
            self.loop = Loop(config, self.task, self.device)
        self._fit = Fit(self.loop, self.out, self._open, self._open_loader)

    def fit(self, resume: Resume = "auto") -> Path:
        """Train, from the newest checkpoint if there is one; see `Data2VecTrainer.fit`."""
        return self._fit(resume)

    def describe(self) -> list[tuple[str, str]]:
        """(what, value) lines about the run that this would be; nothing is written."""
        parts = [("train", self.sets.train), ("validate", self.sets.validation)]
        counts = [
            (what, f"{len(part):,} samples" + "".join(f"; {name} {n:,}" for name, n in part.counts().items()))
            for what, part in parts
            if part is not None
        ]
        network = self.task.network
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        every = sum(p.numel() for p in network.parameters())
        with self._open_loader(self.sets, 0, None) as loader:
            per_epoch, short = loader.steps_per_epoch, loader.left_out
        moments = 8 * trained
        disk = (self.config.checkpoint.keep + (self.sets.validation is not None)) * (4 * every + moments)
        return [
            *counts,
            ("too short", f"{short:,} samples"),
            ("parameters", f"{trained:,} of {every:,} are trained"),
            ("steps", f"{self.config.steps:,} ({per_epoch:,} per epoch, {self.config.steps / per_epoch:.1f} epochs)"),
            ("checkpoints", f"up to {disk / 1e6:,.1f} MB on the disk"),
        ]

    def _open(self, run: Path) -> Sets:
        if self._start:
            self._modality.carry(_pretrained(self.config.encoder.run)[2], run)
        return self.sets

    def _open_loader(self, sets: Sets, first: int, engine: Engine | None) -> LabelledLoader:
        prepare = self.task.network.encoder.prepare
        return LabelledLoader(
            sets, self.config, prepare, self.task.stage, first_step=first, device=self.device, engine=engine
        )


def finetune(
    run: str | Path,
    task: str = "classify",
    *,
    data: Openable,
    out: str | Path,
    label: str | None = None,
    labels: Sequence[Any] | Any | None = None,
    group: str | None = None,
    groups: Sequence[Any] | Any | None = None,
    validation: Openable | None = None,
    validation_labels: Sequence[Any] | Any | None = None,
    recipe: str | None = None,
    resume: Resume = "auto",
    **overrides: Any,
) -> Path:
    """Fine-tune the encoder of a run on samples with labels; the same call again continues.

    Example:
        >>> out = d2v_fast.finetune("runs/photos", "classify", data="labelled/", out="runs/classes", steps=2000)
        >>> d2v_fast.finetuning.load(out).predict("new/").records()

    Args:
        run: A run's folder, or that of one of its checkpoints, or weights of another library (`interop.foreign`), whose
            outputs are taken over where they are for the same labels. It is not needed to continue.
        task: "classify" (one class for each sample), "regress" (a number), "tag" (any number of classes), or "ctc"
            (transcripts).
        data: Samples with labels: a folder with a folder for each class, a manifest, archives, a `datasets.Dataset`;
            or arrays, or a source of one's own, with `labels`.
        out: The folder of the new run.
        label: The column, or key, of the labels.
        labels: One label for each sample.
        group: The column that says what belongs together (a speaker, a patient) and is held out as a whole.
        groups: One group for each sample.
        validation: Samples that choose the best checkpoint; by default `loader.holdout` of the data.
        validation_labels: One label for each of these.
        recipe: A name in `finetuning.recipes.RECIPES`, which changes some defaults.
        resume: See `Data2VecTrainer.fit`.
        **overrides: Fields of `FinetuneConfig` to change; a section takes a dictionary.

    Returns:
        The folder of the new run.

    Raises:
        ConfigError: There is no such task, recipe or field, or a value cannot be used.
        DataError: The data or its labels cannot be used, or are not what the run was begun with.
        RunError: See `Data2VecTrainer.fit`.
    """
    given = LabelledData(
        data=data,
        label=label,
        labels=labels,
        group=group,
        groups=groups,
        validation=validation,
        validation_labels=validation_labels,
    )
    return Finetuning(settle(run, task, dotted(overrides), out, recipe), given, out).fit(resume)


def settle(
    run: str | Path, task: str, given: Mapping[str, Any], out: str | Path, recipe: str | None = None
) -> FinetuneConfig:
    """The settings of a start; nothing is written. A run that continues keeps those that are not given.

    Args:
        run: The pretrained run.
        task: Name of the task.
        given: Dotted name of each field that was given to its value.
        out: The folder of the new run.
        recipe: See `finetune`.

    Raises:
        ConfigError: There is no such task, recipe or field, or a value cannot be used.
        RunError: A run cannot be read, or the folder holds one of another kind.
    """
    before = begun(folder_of(out))
    if before is not None:
        config = before.config
        if not isinstance(config, FinetuneConfig):
            raise RunError(f"{before.path} is a pretraining run: give the fine-tuning a folder of its own")
        if config.task.name != task:
            raise RunError(f"{before.path} is a run of the task {config.task.name}, not of {task}")
        return with_overrides(config, given)
    return with_overrides(default_config(run, task, recipe), given)


def default_config(run: str | Path, task: str, recipe: str | None = None) -> FinetuneConfig:
    """The settings of a new fine-tuning, before anything is changed.

    Args:
        run: The pretrained run: its model and inputs are taken over.
        task: Name of the task.
        recipe: See `finetune`.

    Raises:
        ConfigError: There is no such task or recipe.
        RunError: The run cannot be read.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    model, inputs, where = _pretrained(run)
    modality: Any = registry.get(model.modality)
    config = FinetuneConfig(
        task=TaskConfig(name=task),  # type: ignore[arg-type]
        model=model,
        inputs=modality.for_features(inputs, where),
        loader=LoaderConfig(batch_size=32, holdout=0.1, pad=modality.pads),
    )
    source = str(Path(run).expanduser().resolve())
    config = with_overrides(config, {"encoder.run": source, **TASKS[task].defaults(config)})
    if (foreigner := foreign.place(run)) is not None:
        config = with_overrides(config, imported.defaults(foreigner, task))
    return config if recipe is None else with_overrides(config, RECIPES[recipe])


def _pretrained(run: str | Path) -> tuple[ModelConfig, InputsConfig, Path]:
    """The model of a run, or of a folder of another library, how it makes inputs, and the folder."""
    if (folder := foreign.place(run)) is None:
        opened = Run(run)
        return opened.config.model, opened.config.inputs, opened.path
    return described(folder)


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
        return Sets(train, held)
    if config.loader.holdout > 0:
        return Sets(*hold_out(every, config.loader.holdout))
    return Sets(every.take(every.usable), None)


def load_pretrained(task: SupervisedTask, config: FinetuneConfig) -> None:
    """Put the pretrained weights into the encoder.

    Raises:
        ConfigError: The run has no such network.
        RunError: They cannot be read, or do not fit.
    """
    network = config.encoder.network
    if (folder := foreign.place(config.encoder.run)) is not None:
        if network == "teacher" and folder.is_file():
            tensors = foreign.teacher(folder, config.model)
        else:
            tensors = encoder_weights(folder, config.model)
        put(task.network.encoder, tensors, f"the weights in {folder}")
        imported.take_head(task.network.head, task.config.task, folder)
        return
    opened = Run(config.encoder.run)
    if network == "teacher" and isinstance(opened.config, FinetuneConfig):
        raise ConfigError(f"encoder.network is 'teacher', but {opened.path} is a fine-tuning, which has none")
    prefix = "encoder." if network == "student" else ""
    fill(task.network.encoder, opened.best(), network, prefix=prefix, finite=True)


def _from_labels(config: FinetuneConfig, train: Labelled, *, new: bool) -> TaskConfig:
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
