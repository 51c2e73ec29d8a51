"""The data of a fine-tuning: samples with labels, split, and their batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.batch import Batch
from d2v_fast.data import Loader, Stage
from d2v_fast.data.deal import Deal
from d2v_fast.data.labelled import Labelled
from d2v_fast.errors import DataError, SampleError
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.whole import whole_batches
from d2v_fast.log import report


@dataclass(frozen=True)
class Sets:
    """What is trained on and what chooses the best checkpoint."""

    train: Labelled
    """All of them with a label."""

    validation: Labelled | None
    """All of them with a label; None if there is no validation."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many samples of the data were left out, by the reason."""

    def __len__(self) -> int:
        """Samples with a label, of both."""
        return len(self.train) + (0 if self.validation is None else len(self.validation))

    @property
    def fingerprint(self) -> str:
        """Changes with samples, labels and their split."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.validation):
            if part is None:
                continue
            digest.update(part.source.fingerprint.encode())
            if part.labels is not None:
                digest.update(part.labels.numpy().tobytes())
            for text in part.texts or ():
                digest.update(text.encode() + b"\0")
        return digest.hexdigest()


class LabelledLoader(Loader):
    """The batches of a training set, and a validation of whole samples from another set.

    Args:
        sets: Both.
        config: Of the run.
        prepare: (sample, name=...) -> the encoder's input, for the validation.
        stage: Makes what adds the labels of a set to its batches.
        augmentations: What is done to the batches of the training set after that.
        weights: float64 [N], how often each of its samples is drawn; None: each once an epoch.
        first_step: See `Loader`.
        device: See `Loader`.
        engine: See `Loader`.
        deal: See `Loader`.
    """

    def __init__(
        self,
        sets: Sets,
        config: FinetuneConfig,
        prepare: Callable[..., Tensor],
        stage: Callable[[Labelled], Stage],
        *,
        augmentations: Sequence[Stage] = (),
        weights: np.ndarray | None = None,
        first_step: int = 0,
        device: torch.device | None = None,
        engine: Literal["dali", "native"] | None = None,
        deal: Deal | None = None,
    ) -> None:
        modality: Any = registry.get(config.model.modality)
        embedding = config.model.embedding
        super().__init__(
            sets.train.source,
            modality.sampling(config.inputs, embedding, config.loader),
            config=replace(config.loader, holdout=0.0),  # it is done already: groups stay whole
            seed=config.seed,
            stages=[stage(sets.train), *augmentations],
            weights=weights,
            computed=config.numerics >= 5,
            dali=modality.dali(config.inputs, embedding),
            first_step=first_step,
            device=device,
            engine=engine,
            deal=deal,
        )
        self._sets, self._prepare, self._stage = sets, prepare, stage
        self._batch_size = config.loader.batch_size
        self._threads = config.loader.thread_count(gpu=device is not None and device.type == "cuda")
        self._told: set[int] = set()

    @property
    def validates(self) -> bool:
        """Whether there is a validation set."""
        return self._sets.validation is not None

    def validation(self) -> Iterator[Batch]:
        """Its samples, whole, each once; one that cannot be read is named once and left out."""
        held = self._sets.validation
        if held is None:
            return
        stage = self._stage(held)
        for batch in whole_batches(held.source, self._prepare, self._batch_size, self._failed, self._threads):
            yield stage(batch, 0)

    def _failed(self, number: int, error: SampleError) -> None:
        if number not in self._told:
            self._told.add(number)
            report(error.name, error.reason)


def labels_of(labelled: Labelled) -> Tensor:
    """The labels as a tensor.

    Raises:
        DataError: They are transcripts.
    """
    if labelled.labels is None:
        raise DataError("these labels are transcripts: they are for another task")
    return labelled.labels
