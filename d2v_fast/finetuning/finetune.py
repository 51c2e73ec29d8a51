"""Fine-tuning: from a pretrained run and labels to a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from d2v_fast import registry
from d2v_fast.config_json import dotted
from d2v_fast.data import Openable
from d2v_fast.data.deal import Deal
from d2v_fast.errors import ConfigError
from d2v_fast.finetuning.balance import sample_weights
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.data import LabelledLoader, Sets
from d2v_fast.finetuning.sets import LabelledData, from_labels, open_sets
from d2v_fast.finetuning.settings import pretrained, settle
from d2v_fast.finetuning.start import load_pretrained
from d2v_fast.finetuning.tasks import TASKS, SupervisedTask
from d2v_fast.log import tell
from d2v_fast.run.evidence import evidence, folder_of
from d2v_fast.training.distributed.join import joined
from d2v_fast.training.fit import Engine, Fit, Resume
from d2v_fast.training.loop import Loop
from d2v_fast.training.out_of_memory import explained
from d2v_fast.training.precision import autocast, check_attention, own_modes, settled


class Finetuning:
    """The loop with a task on labels, on one device, or under torchrun on several.

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
            device: "cpu", "cuda", ...; by default a GPU if there is one; under torchrun the one for this process.

        Raises:
            ConfigError: A value cannot be used with these labels, or on this device.
            DataError: The data or its labels cannot be used.
            RunError: The pretrained weights cannot be used.
        """
        self.out = folder_of(out)
        world, self.device = joined(device)
        config = settled(config, self.device, self.out)
        deal = Deal(config.loader, world.rank, world.size, may_cut=not config.augment.mixes)
        self._modality: Any = registry.get(config.model.modality)
        self._start = start = evidence(self.out) is None
        if (self.out / "config.json").is_file():
            inputs = self._modality.for_features(config.inputs, self.out)
        else:
            inputs = config.inputs
        self.sets = open_sets(config, inputs, given)
        self.config = config = replace(config, task=from_labels(config, self.sets.train, new=start))
        if config.task.patience is not None and self.sets.validation is None:
            raise ConfigError("task.patience is given, but nothing is validated: give validation data or a holdout")
        if start and config.task.smoothing and config.task.name != "classify":
            raise ConfigError(
                f"task.smoothing is {config.task.smoothing}, which is for classify, not for {config.task.name}: set 0"
            )
        if start and config.head.pooling == "first" and not self._modality.first_token:
            tell(
                f"head.pooling is first: of {self._modality.name} that is the first patch or frame alone, which stands "
                "for nothing else; mean takes all"
            )
        autocast(config.precision, self.device)  # refuses a format that the device does not know
        check_attention(config, self.device)
        with explained("while the model was built"), own_modes(self.device):
            self.task: SupervisedTask = TASKS[config.task.name](config)
            self.task.network.encoder.inputs = inputs
            self.sets = self._trainable(self.sets)
            self.task.prepare(self.sets.train)
            if start and not config.encoder.from_scratch:
                load_pretrained(self.task, config)
            self.task.to(self.device)
            self.loop = Loop(config, self.task, self.device, world, deal)
        self._fit = Fit(self.loop, self.out, self._open, self.open_loader)

    def fit(self, resume: Resume = "auto", *, data_changed: bool = False) -> Path:
        """Train, from the newest checkpoint if there is one; see `Data2VecTrainer.fit`."""
        return self._fit(resume, data_changed)

    def _trainable(self, sets: Sets) -> Sets:
        """The samples that something can be learned from, with the others counted and named."""
        train = self.task.trainable(sets.train)
        if sets.validation is not None:
            for remark in self.task.remarks(sets.validation):
                tell(remark)
        less = len(sets.train) - len(train)
        counted = {"nothing can be learned from them": less} if less else {}
        return replace(sets, train=train, left_out={**sets.left_out, **counted})

    def _open(self, run: Path) -> Sets:
        if self._start and self.loop.world.main:
            self._modality.carry(pretrained(self.config.encoder.run)[2], run)
        return self.sets

    def open_loader(self, sets: Sets, first: int, engine: Engine | None = None) -> LabelledLoader:
        """The batches from step `first` on, and the validation; `engine` is what decoded when the run was begun."""
        task = self.task
        config = replace(self.config, numerics=self.loop.config.numerics)  # a run that continues keeps its own rules
        return LabelledLoader(
            sets,
            config,
            task.network.encoder.prepare,
            task.stage,
            augmentations=task.augmentations(),
            weights=sample_weights(sets.train) if config.task.balance == "sampler" else None,
            first_step=first,
            device=self.device,
            engine=engine,
            deal=self.loop.deal,
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
    data_changed: bool = False,
    **overrides: Any,
) -> Path:
    """Fine-tune the encoder of a run on samples with labels; the same call again continues.

    Example:
        >>> out = d2v_fast.finetune("runs/photos", "classify", data="labelled/", out="runs/classes", steps=2000)
        >>> d2v_fast.load(out).predict("new/").records()

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
        data_changed: See `Data2VecTrainer.fit`; samples, labels and what is held out are then what they are now.
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
    tuning = Finetuning(settle(run, task, dotted(overrides), out, recipe), given, out)
    return tuning.fit(resume, data_changed=data_changed)
