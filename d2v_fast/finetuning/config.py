"""The configuration of a fine-tuning: the encoder's own sections, and what is done with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from d2v_fast import registry
from d2v_fast.checks import MAY_CHANGE, MISSING, SEED_LIMIT, Check, Section
from d2v_fast.config import (
    NUMERICS,
    CheckpointConfig,
    DistributedConfig,
    LogConfig,
    OptimConfig,
    PrecisionConfig,
    check_loader,
)
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.errors import ConfigError
from d2v_fast.finetuning.augment_config import AugmentConfig
from d2v_fast.finetuning.ctc_config import CtcConfig
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Section):
    """What is learned from the labels."""

    section: ClassVar[str] = "task"

    name: Literal["classify", "regress", "tag", "ctc"] = "classify"
    """One class for each sample, a number for each, any number of classes for each, or a transcript."""

    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the head's outputs; ctc: the symbols, the blank first. The first start
    takes them from the labels."""

    mean: float = 0.0
    """regress: subtracted from the values. The first start takes it from the labels that are trained on."""

    std: float = 1.0
    """regress: the values are divided by it. The first start takes it from the labels that are trained on."""

    smoothing: float = 0.0
    """classify: share of the target that is spread evenly over the classes (label smoothing)."""

    balance: Literal["none", "weights", "sampler"] = "none"
    """Classes of different sizes. weights: the loss counts an error on a small class more; sampler: samples of small
    classes come several times in an epoch, others not in each; both: as often, or as much, as if all were equal."""

    metric: str | None = None
    """The number of a validation that chooses the best checkpoint ("accuracy", "f1", "loss", ...); None: the task's."""

    patience: int | None = field(default=None, metadata=MAY_CHANGE)
    """Validations without a better one after which the run ends early; None: never. May change."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.below_one("smoothing")
        check.above_zero("std")
        check.at_least(1, "patience")
        twice = {name for name in self.classes if self.classes.count(name) > 1}
        check.require(not twice, "classes", f"different names, but {', '.join(sorted(twice))} comes twice")


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Section):
    """From the encoder's features to the outputs."""

    section: ClassVar[str] = "head"

    pooling: Literal["mean", "first", "lin_softmax"] = "mean"
    """The mean over the tokens, or the first one (text: <s>; of others the first patch or frame alone); class tokens of
    the encoder are not among them. tag also has lin_softmax: a probability for each token and class, of which the sum
    of squares over the sum is taken (the released audio code)."""

    layers: Literal["last", "block", "weighted"] = "last"
    """The encoder's output; its last block's output, before the encoder's own norm, whose place `norm` takes (BEiT's
    fine-tuning of pictures); or a learned weighted sum over the outputs of all its blocks (as in SUPERB)."""

    norm: bool = True
    """A LayerNorm on the pooled features."""

    hidden: bool = False
    """The released text head: dropout, a map of the same width and tanh before the last map."""

    dropout: float = 0.0
    """Before each map."""

    init_std: float = 0.02
    """Standard deviation of the last map's first weights (the released vision code has .02, its 1.0 version 2e-5)."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.below_one("dropout")
        check.at_least(0, "init_std")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Section):
    """Where the encoder's weights come from, and how much of it is trained."""

    section: ClassVar[str] = "encoder"

    run: str = field(default="", metadata=MAY_CHANGE)
    """The run, or checkpoint, that the first start took them from. May change: it can be moved, or deleted."""

    network: Literal["student", "teacher"] = "student"
    """Whose weights: the papers fine-tune the student."""

    from_scratch: bool = False
    """Random weights instead, to see what pretraining is worth."""

    frozen: bool = False
    """Train the head alone (with a linear head: a linear probe). The encoder then works without dropout."""

    frozen_embedding: bool = False
    """Leave the embedding as it is (speech: the convolutions, as all released recipes do)."""

    freeze_steps: int = 0
    """Steps at the beginning that train the head alone; dropout and layer drop act on the encoder, as released."""

    layer_decay: float = 1.0
    """Learning rate of a block, relative to the one above it (BEiT: .65 or .75); the last block has this factor too."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(0, "freeze_steps")
        check.require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1")
        check.require(
            not (self.frozen and self.from_scratch), "frozen", "False for an encoder from scratch, which has to learn"
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Section):
    """Everything that decides a fine-tuning, but for its data. "May change" means what it does in `Config`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    """What is learned from the labels."""

    model: ModelConfig
    """The network of the pretrained run; dropouts, drop path and layer drop may differ from it."""

    inputs: InputsConfig
    """How files become inputs."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Where its weights come from, and how much of it is trained."""

    head: OutputConfig = field(default_factory=OutputConfig)
    """From the encoder's features to the outputs."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What is mixed and masked while training."""

    ctc: CtcConfig = field(default_factory=CtcConfig)
    """Speech recognition: what is written, masked and decoded."""

    loader: LoaderConfig = field(default_factory=lambda: LoaderConfig(batch_size=32, holdout=0.1))
    """How samples become batches; `holdout` is the share that chooses the best checkpoint."""

    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=3e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, decay_vectors=False, warmup=0.1, last_lr=0.01
        )
    )
    """AdamW and its schedule."""

    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Number formats and memory."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=MAY_CHANGE)
    """When the run is saved, besides after each validation that is the best so far. May change."""

    log: LogConfig = field(default_factory=lambda: LogConfig(every=50, validate_every=200), metadata=MAY_CHANGE)
    """What is written while training. May change."""

    distributed: DistributedConfig = field(default_factory=DistributedConfig, metadata=MAY_CHANGE)
    """How several processes keep the network. May change."""

    steps: int = 2000
    """Optimizer steps. A run may grow: it may have more when it continues."""

    seed: int = 0
    """Decides the head's weights, the order of samples, crops and noise."""

    numerics: int = field(default=NUMERICS, metadata={MISSING: 4})
    """Rules by which samples are ordered and numbers are drawn."""

    def check(self, check: Check) -> None:
        """Check what must fit between the sections; see `Section.check`."""
        check.at_least(1, "steps")
        check.require(1 <= self.numerics <= NUMERICS, "numerics", f"1 to {NUMERICS}")
        check.require(0 <= self.seed < SEED_LIMIT, "seed", "at least 0 and below 2**63")
        modality: Any = registry.get(self.model.modality)
        if not isinstance(self.inputs, modality.inputs):
            raise ConfigError(
                f"inputs is a {type(self.inputs).__name__}, but a {modality.name} model needs a "
                f"{modality.inputs.__name__}"
            )
        if self.precision.compile:
            raise ConfigError("precision.compile is not for fine-tuning: leave it out")
        if self.head.layers != "last" and self.model.transformer.layer_drop > 0:
            raise ConfigError(
                f"head.layers is {self.head.layers!r}, which needs the output of blocks that may not be skipped, but "
                f"model.transformer.layer_drop is {self.model.transformer.layer_drop}: set it to 0"
            )
        check_loader(self.loader, modality, self.inputs, self.model.embedding)
        self._check_augment(modality)
        if self.encoder.freeze_steps >= self.steps:
            raise ConfigError(
                f"encoder.freeze_steps is {self.encoder.freeze_steps}, but there are only {self.steps} steps: lower "
                "it, or set encoder.frozen"
            )

    def _check_augment(self, modality: Any) -> None:
        """What some tasks, or some inputs, have no use for."""
        task, augment = self.task.name, self.augment
        for name in ("mixup", "cutmix"):
            if getattr(augment, name) and name not in modality.mixes:
                raise ConfigError(
                    f"augment.{name} is not for {modality.name}, whose inputs cannot be mixed so: set it to 0"
                )
        if augment.mixup and task == "ctc":
            raise ConfigError("augment.mixup is not for ctc: transcripts cannot be mixed; leave it out")
        if augment.cutmix and task not in ("classify", "tag"):
            raise ConfigError(f"augment.cutmix is for classes, not for {task}: leave it out")
        if augment.mask_probability and task == "ctc":
            raise ConfigError("augment.mask_probability is not for ctc: set ctc.mask_probability")
        if augment.mask_probability and not isinstance(self.model.embedding, FramesEmbedding):
            raise ConfigError(f"augment.mask_probability is for signals over time, not for {modality.name}")
        if self.task.balance != "none" and task not in ("classify", "tag"):
            raise ConfigError(f"task.balance is for classes (classify, tag), not for {task}: leave it out")
        if self.head.pooling == "lin_softmax" and task != "tag":
            raise ConfigError(f"head.pooling is 'lin_softmax', which is for tag, not for {task}: use mean or first")
