"""What all tasks with labels for whole samples share: a network, its loss, and validation on whole samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.data import Stage, label_stage
from d2v_fast.data.labelled import LabelKind, Labelled
from d2v_fast.errors import ConfigError
from d2v_fast.finetuning.balance import class_weights
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.data import labels_of
from d2v_fast.finetuning.heads import FinetunedNetwork, OutputHead, layer_rates
from d2v_fast.finetuning.latent_masks import hide, time_mask
from d2v_fast.finetuning.mixing import mix_stage
from d2v_fast.models import Encoder, Loss, build_encoder, skipped_blocks
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.run.weights import drawn_from, fill
from d2v_fast.training.task import Losses, Metrics, Select
from d2v_fast.training.update import Averages

Score = Callable[[np.ndarray, np.ndarray], float]
"""(outputs of the network float64 [N, K], labels [N] or [N, K]) -> a number."""


class SupervisedTask(ABC):
    """A `Task` on labels. The subclasses say what the outputs of the network mean.

    Attributes:
        config: Of the run.
        network: The encoder and the head.
        class_weights: float32 [classes], of the loss while training; None: all are 1.
    """

    name: str

    about: ClassVar[str]
    """What it is for, in a line of help."""

    kind: ClassVar[LabelKind]
    """The labels that it needs."""

    chooses: ClassVar[str]
    """The number that chooses the best checkpoint, if the configuration names none."""

    per_token: ClassVar[bool] = False
    """Whether the network has outputs for each token, not for each sample."""

    smaller: ClassVar[frozenset[str]] = frozenset({"loss", "mae"})
    """Of the measures, those of which less is better."""

    def __init__(self, config: FinetuneConfig) -> None:
        """Build the network on the CPU with new weights of the seed: the encoder first, then the head.

        Raises:
            ConfigError: `model` contradicts itself, or there is no such metric.
        """
        self.config = config
        self.class_weights: Tensor | None = None
        known = ["loss", *self.measures]
        if config.task.metric is not None and config.task.metric not in known:
            raise ConfigError(f"task.metric is {config.task.metric!r}, but {self.name} has {', '.join(known)}")
        with drawn_from(config.seed):
            try:
                encoder = build_encoder(config.model)
            except ValueError as error:
                raise ConfigError(f"model: {error}") from error
            self.network = self.build(encoder)
        encoder.inputs = config.inputs
        frozen: nn.Module | None = encoder if config.encoder.frozen else None
        if frozen is None and config.encoder.frozen_embedding:
            frozen = encoder.embedding
        if frozen is not None:
            frozen.requires_grad_(False)
        self._encoder_names = frozenset(f"encoder.{name}" for name, p in encoder.named_parameters() if p.requires_grad)

    @classmethod
    def defaults(cls, config: FinetuneConfig) -> Mapping[str, Any]:
        """Fields, by dotted name, that this task has other defaults for."""
        return {}

    def build(self, encoder: Encoder) -> FinetunedNetwork:
        """The network: the encoder and a new head, with weights of torch's global generator."""
        network = self.config.model.transformer
        return FinetunedNetwork(encoder, OutputHead(self.config.head, network.dim, network.depth, self.outputs))

    def stage(self, labelled: Labelled) -> Stage:
        """What adds the labels to a batch of these samples."""
        return label_stage(labels_of(labelled))

    def trainable(self, train: Labelled) -> Labelled:
        """The samples of a training set that something can be learned from; by default all that have a label."""
        return train

    def remarks(self, held: Labelled) -> list[str]:
        """What a person should know about samples that answers are compared with."""
        return []

    def prepare(self, train: Labelled) -> None:
        """Take from the training set what the loss needs to know of it; by default the weights of its classes."""
        if self.config.task.balance == "weights":
            self.class_weights = class_weights(train)

    def augmentations(self) -> list[Stage]:
        """What is done to a batch of the training set after its labels are there."""
        config = self.config
        return [mix_stage(config.augment, config.seed, self.outputs)] if config.augment.mixes else []

    def wanted(self, labelled: Labelled) -> np.ndarray:
        """The labels as the measures take them, [N] or [N, K]."""
        return labels_of(labelled).numpy()

    def answers(self, outputs: Tensor, batch: Batch) -> np.ndarray:
        """What is kept of the outputs for a batch of whole samples: float64 [B, K]."""
        kept: np.ndarray = outputs.double().cpu().numpy()
        return kept

    def answer(self, outputs: Tensor) -> Any:
        """What is kept of the outputs [T, K] for the tokens of one sample, where `per_token`."""
        raise NotImplementedError

    def pooled(self, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """One answer to the windows of a long sample, float64 [K], so that `read` gives the mean over their time.

        Args:
            outputs: float64 [W, K].
            weights: [W], how much each window stands for.
        """
        mean: np.ndarray = np.average(self.read(outputs), axis=0, weights=weights)
        return self.unread(mean)

    def unread(self, value: np.ndarray) -> np.ndarray:
        """The outputs that `read` makes this of, [K] each."""
        raise NotImplementedError

    def nothing(self, count: int) -> np.ndarray:
        """Room for the answers to so many samples: float64 [count, K] of nan, which says that there is no answer."""
        return np.full((count, self.outputs), np.nan)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the network gives for each sample."""

    @property
    @abstractmethod
    def measures(self) -> Mapping[str, Score]:
        """What a validation measures, by name, besides the loss."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """[]: the loss, summed over the samples.

        Args:
            outputs: float32 [B, K].
            labels: Of the samples; while training perhaps mixed ones, see `mix_stage`.
        """

    @abstractmethod
    def read(self, outputs: np.ndarray) -> np.ndarray:
        """What a person wants of the outputs, float64 [N, K]: probabilities, values."""

    @abstractmethod
    def describe(self, read: np.ndarray) -> dict[str, Any]:
        """What `predict` says about one sample, [K] of `read`."""

    def to(self, device: torch.device) -> None:
        """Move the network and put it into training mode, with the kernels and the memory that the run asks for."""
        self.network.to(device)
        self.network.encoder.checkpoint_activations = self.config.precision.checkpoint_activations
        self.network.encoder.attention = self.config.precision.attention
        self.class_weights = None if self.class_weights is None else self.class_weights.to(device)
        self._train()

    def parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Those of the network."""
        return self.network.named_parameters()

    def rates(self) -> Mapping[str, float]:
        """Layer-wise decay, see `layer_rates`."""
        own = layer_rates(self.network.encoder, self.config.encoder.layer_decay)
        return {f"encoder.{name}": rate for name, rate in own.items()}

    def held(self, step: int) -> Collection[str]:
        """The encoder, during the steps that train the head alone."""
        return self._encoder_names if step < self.config.encoder.freeze_steps else ()

    def averages(self) -> Averages | None:
        """None."""
        return None

    def decay(self, step: int) -> float | None:
        """None."""
        return None

    def counts(self, batch: Batch) -> dict[str, int]:
        """Samples."""
        return {self.name: len(batch.sample_ids)}

    def losses(self, batch: Batch, step: int, micro_batch: int) -> Losses:
        """One forward pass, with masks; layer drop is the same in all micro-batches of a step."""
        config = self.config
        assert batch.labels is not None

        def masked(local: Tensor) -> Tensor:
            frames = self.network.encoder.token_lengths(batch.lengths)
            size = (local.shape[0], local.shape[1])
            time = time_mask(config.augment.time_spans, frames, size, config.seed, step, micro_batch)
            return hide(local, time, None, self.mask_token(local))

        outputs = self.network(
            batch.inputs,
            batch.lengths,
            skipped=None if config.encoder.frozen else skipped_blocks(config.model.transformer, config.seed, step),
            frozen=config.encoder.frozen or step < config.encoder.freeze_steps,
            frozen_embedding=config.encoder.frozen_embedding,
            change=masked if config.augment.mask_probability and not config.encoder.frozen else None,
        )
        return {self.name: Loss(self.loss(outputs, batch.labels), len(batch.sample_ids))}

    def mask_token(self, local: Tensor) -> Tensor:
        """[C], what stands at masked frames of [B, T, C]; data2vec 2.0 has no mask token, the released code puts 0."""
        if self.config.model.encodes_kept:
            return local.new_zeros(local.shape[2])
        return self.network.encoder.embedding.get_parameter("mask_token")

    def monitors(self, step: int) -> Metrics:
        """None."""
        return {}

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """No memory of log lines."""
        return

    def judge(self, line: Mapping[str, Any], step: int) -> list[str]:
        """No warnings."""
        return []

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> Metrics:
        """Loss and measures of the held-out samples, without dropout; None for all if an output is not finite."""
        outputs, labels, total = [], [], 0.0
        self.network.eval()
        try:
            for batch in batches:
                assert batch.labels is not None
                result = self.network(batch.inputs, batch.lengths)
                total += float(self.loss(result, batch.labels))
                outputs.append(result.double().cpu())
                labels.append(batch.labels.cpu())
        finally:
            self._train()
        names = [f"validation_{name}" for name in ("loss", *self.measures)]
        if not outputs:
            return dict.fromkeys(names)
        found, wanted = torch.cat(outputs).numpy(), torch.cat(labels).numpy()
        if not np.isfinite(found).all():
            return dict.fromkeys(names)
        values = [total / len(found), *self.measure(found, wanted).values()]
        return dict(zip(names, values, strict=True))

    def measure(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
        """The measures by name; None where one means nothing for these samples (a correlation of one sample)."""
        result: dict[str, float | None] = {}
        for name, measure in self.measures.items():
            try:
                value = measure(outputs, labels)
            except ValueError:  # the measures say so of samples that are too few
                value = float("nan")
            result[name] = value if np.isfinite(value) else None
        return result

    def select(self) -> Select | None:
        """By `task.metric`."""
        metric = self.config.task.metric or self.chooses
        return Select(f"validation_{metric}", metric not in self.smaller, self.config.task.patience)

    def log(self, step: int) -> Metrics:
        """Nothing."""
        return {}

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """The network, as a student: `load` takes its encoder."""
        return {"student": self.network.state_dict()}

    def load(self, checkpoint: Checkpoint) -> None:
        """Put in what `state` gave."""
        fill(self.network, checkpoint, "student")

    def _train(self) -> None:
        self.network.train()
        if self.config.encoder.frozen:
            self.network.encoder.eval()
