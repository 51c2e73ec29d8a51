"""The configuration of a run: one dataclass per section; a field's docstring is the command line's help, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from d2v_fast import registry
from d2v_fast.checks import MAY_CHANGE, MAY_CHANGE_WITH_STEPS, MISSING, SEED_LIMIT, Check, Section, join
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import MaskConfig
from d2v_fast.models.config import EmbeddingConfig, ModelConfig

NUMERICS = 5
"""The rules of new runs (`Config.numerics`). 1: as in version 0.1. 2: the same. 3: on a CPU `ops.adamw_ema_` makes the
update and `ops.linear` the products in float32, whose last bits are not torch's. 4: also those in bfloat16,
attention is our own, whose dropout draws other noise than torch's, and so are norm and GELU behind a convolution. 5: an
epoch is ordered place by place (`data.computed`), and the convolution of a signal is in one pass with norm and GELU;
on a GPU norm and GELU are our own, too."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Section):
    """AdamW and its schedule."""

    section: ClassVar[str] = "optim"

    lr: float = 5e-4
    """Highest learning rate."""

    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the first and the second moment."""

    eps: float = 1e-6
    """Added to the root of the second moment."""

    weight_decay: float = 0.01
    """Decoupled weight decay."""

    decay_vectors: bool = True
    """Decay biases, norms, layer scales and the class token too (the released speech and text code does)."""

    clip_norm: float | None = None
    """Largest norm of the whole gradient; None for no clipping."""

    schedule: Literal["cosine", "linear", "tri_stage"] = "cosine"
    """Shape of the learning rate after the warm-up."""

    warmup: float = 0.03
    """Warm-up, as a share of the steps."""

    hold: float = 0.0
    """tri_stage: share of the steps at the highest rate, after the warm-up."""

    first_lr: float = 0.0
    """Learning rate of the first step, as a share of the highest."""

    last_lr: float = 0.0
    """Learning rate of the last step, as a share of the highest."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.above_zero("lr", "eps", "clip_norm")
        check.require(all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers of at least 0 and below 1")
        check.at_least(0, "weight_decay")
        check.share("warmup", "hold", "first_lr", "last_lr")
        check.require(self.warmup + self.hold <= 1 + 1e-9, "hold", f"at most what the warm-up of {self.warmup} leaves")
        falls_exponentially = self.schedule == "tri_stage"
        check.require(
            self.last_lr > 0 or not falls_exponentially,
            "last_lr",
            "above 0 with the tri_stage schedule, which falls exponentially (the recipe has 0.01)",
        )


@dataclass(frozen=True, kw_only=True)
class EmaConfig(Section):
    """How fast the teacher follows: teacher = decay * teacher + (1 - decay) * student, once per optimizer step."""

    section: ClassVar[str] = "ema"

    start: float = 0.999
    """Decay before the first step; step n, counted from 1, is n / anneal_steps of the way to `end`."""

    end: float = 0.9999
    """Decay from step `anneal_steps` on; linear before."""

    anneal_steps: int = field(default=30_000, metadata=MAY_CHANGE_WITH_STEPS)
    """Steps from `start` to `end`; 0 uses `end` throughout. May change when the run gets more `steps`."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.share("start", "end")
        check.at_least(0, "anneal_steps")


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig(Section):
    """Number formats and memory."""

    section: ClassVar[str] = "precision"

    autocast: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Format of matrix products; weights, teacher, optimizer stay float32. float16 scales the loss and needs CUDA.
    "auto" is settled when a run begins: bfloat16 where the device multiplies it and the network is wide enough."""

    teacher_float32: bool = False
    """Run the teacher in float32 whatever `autocast` says, as the published vision code does."""

    tf32: bool = field(default=True, metadata={MISSING: False})
    """CUDA: float32 products in TensorFloat-32 (10 bits of mantissa), as when the recipes were published. Targets
    change by about 3e-4 of their size; no other device knows it."""

    checkpoint_activations: bool = field(default=False, metadata=MAY_CHANGE)
    """Recompute each block in the backward pass: less memory, more time. May change."""

    compile: bool = False
    """Compile student and teacher with torch.compile."""

    attention: Literal["auto", "sdpa", "varlen", "xformers", "blocks"] = "auto"
    """Kernel for sequences of different lengths; "sdpa" computes the padding too, "auto" only if no other one works."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Section):
    """When the run is saved."""

    section: ClassVar[str] = "checkpoint"

    every: int = 1000
    """Optimizer steps between checkpoints; the last step always writes one."""

    keep: int = 2
    """Checkpoints kept, the newest ones."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "every", "keep")


@dataclass(frozen=True, kw_only=True)
class LogConfig(Section):
    """What is written while training."""

    section: ClassVar[str] = "log"

    every: int = 50
    """Optimizer steps between lines of metrics.jsonl."""

    validate_every: int = 500
    """Optimizer steps between validation losses, if loader.holdout is not 0."""

    wandb: bool = False
    """Also send the metrics to Weights & Biases."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "every", "validate_every")


@dataclass(frozen=True, kw_only=True)
class MonitorConfig(Section):
    """Collapse: outputs that no longer differ between positions."""

    section: ClassVar[str] = "monitor"

    warmup_steps: int = 1000
    """Steps before anything is judged."""

    min_std: float = 0.1
    """Mean standard deviation of the targets below which a warning comes; of predictions and local features a tenth."""

    min_rank: float = 2.0
    """Effective rank of predictions or targets below which a warning is given."""

    abort_std: float = 0.01
    """Target standard deviation below which the run stops; 0 never stops."""

    min_explained: float = 0.05
    """Share of the targets' variance that the predictions of the last log lines explain, below which a warning is given
    after a third of the steps; 0 warns only of predictions that are worse than the targets' mean."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(0, "warmup_steps", "min_std", "min_rank", "abort_std")
        check.share("min_explained")


@dataclass(frozen=True, kw_only=True)
class DistributedConfig(Section):
    """How several processes keep the model."""

    section: ClassVar[str] = "distributed"

    shard: bool = False
    """Each of several processes keeps its part of weights, teacher and moments, not all of them: less memory, more to
    send. The gradients are the same but for rounding, and one process alone keeps everything whatever this says."""


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Everything that decides a run, but for its data.

    A field decides the bits of the run, and a run that continues keeps its value, unless the field's docstring says
    "May change" (then `checks.MAY_CHANGE` marks it, or its whole section).
    """

    model: ModelConfig
    """The student-teacher pair."""

    mask: MaskConfig
    """What the student does not see."""

    inputs: InputsConfig
    """How files become inputs."""

    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How samples become batches."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its schedule."""

    ema: EmaConfig = field(default_factory=EmaConfig)
    """How fast the teacher follows."""

    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Number formats and memory."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=MAY_CHANGE)
    """When the run is saved. May change."""

    log: LogConfig = field(default_factory=LogConfig, metadata=MAY_CHANGE)
    """What is written while training. May change."""

    monitor: MonitorConfig = field(default_factory=MonitorConfig, metadata=MAY_CHANGE)
    """When a collapse is called one. May change."""

    distributed: DistributedConfig = field(default_factory=DistributedConfig, metadata=MAY_CHANGE)
    """How several processes keep the model. May change."""

    steps: int = 400_000
    """Optimizer steps; 0 writes the random start. A run may grow: it may have more when it continues."""

    seed: int = 0
    """Decides weights, order of samples, crops, masks and noise."""

    numerics: int = field(default=NUMERICS, metadata={MISSING: 1})
    """Rules that decide bits, such as the update's arithmetic: new runs have the newest, a run keeps its own."""

    def check(self, check: Check) -> None:
        """Check what must fit between the sections; see `Section.check`."""
        check.at_least(0, "steps")
        known = 1 <= self.numerics <= NUMERICS
        check.require(known, "numerics", f"1 to {NUMERICS}: other rules belong to another version of d2v_fast")
        check.require(0 <= self.seed < SEED_LIMIT, "seed", "at least 0 and below 2**63")
        modality = registry.get(self.model.modality)
        for name, part, classes in (("mask", self.mask, modality.masks), ("inputs", self.inputs, (modality.inputs,))):
            if not isinstance(part, classes):
                names = " or a ".join(cls.__name__ for cls in classes)
                raise ConfigError(
                    f"{join(check.name, name)} is a {type(part).__name__}, but a {modality.name} model needs a {names}"
                )
        check_loader(self.loader, modality, self.inputs, self.model.embedding)
        if self.distributed.shard and self.precision.compile:
            raise ConfigError("distributed.shard and precision.compile do not work together: leave one of them out")
        modality.check(self)


def check_loader(loader: LoaderConfig, modality: Any, inputs: InputsConfig, embedding: EmbeddingConfig) -> None:
    """Check the fields of the loader that only some modalities have a use for.

    Raises:
        ConfigError: One of them is set.
    """
    name = modality.name
    for key in ("batch_seconds", "batch_tokens"):
        if getattr(loader, key) is not None and modality.budget_field != key:
            raise ConfigError(f"loader.{key} is not for {name}: use loader.{modality.budget_field or 'batch_size'}")
    if loader.pad and not modality.pads:
        raise ConfigError(f"loader.pad is not for {name}: leave it out")
    if loader.engine == "dali" and modality.dali(inputs, embedding) is None:
        raise ConfigError(f"loader.engine is dali, but {name} has nothing to decode: use auto or native")
