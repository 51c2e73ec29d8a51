"""The configuration of a run: one dataclass per section; a field's docstring is the command line's help, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.masking.config import MaskConfig
from d2v_fast.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

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

    schedule: Literal["cosine", "tri_stage"] = "cosine"
    """Shape of the learning rate after the warm-up."""

    warmup: float = 0.03
    """Warm-up, as a share of the steps."""

    hold: float = 0.0
    """tri_stage: share of the steps at the highest rate, after the warm-up."""

    first_lr: float = 0.0
    """Learning rate of the first step, as a share of the highest."""

    last_lr: float = 0.0
    """Learning rate of the last step, as a share of the highest."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """How fast the teacher follows: teacher = decay * teacher + (1 - decay) * student, once per optimizer step."""

    start: float = 0.999
    """Decay before the first step; step n, counted from 1, is n / anneal_steps of the way to `end`."""

    end: float = 0.9999
    """Decay from step `anneal_steps` on; linear before."""

    anneal_steps: int = 30_000
    """Steps from `start` to `end`; 0 uses `end` throughout."""


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Number formats and memory."""

    autocast: Literal["float32", "bfloat16", "float16"] = "float32"
    """Format of matrix products; weights, teacher, optimizer stay float32. float16 scales the loss and needs CUDA."""

    teacher_float32: bool = False
    """Run the teacher in float32 whatever `autocast` says, as the published vision code does."""

    checkpoint_activations: bool = False
    """Recompute each block in the backward pass: less memory, more time."""

    compile: bool = False
    """Compile student and teacher with torch.compile."""

    attention: Literal["auto", "sdpa", "varlen", "xformers", "blocks"] = "auto"
    """Kernel for sequences of different lengths; "sdpa" computes the padding too, "auto" only if no other one works."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved."""

    every: int = 1000
    """Optimizer steps between checkpoints; the last step always writes one."""

    keep: int = 2
    """Checkpoints kept, the newest ones."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written while training."""

    every: int = 50
    """Optimizer steps between lines of metrics.jsonl."""

    validate_every: int = 500
    """Optimizer steps between validation losses, if loader.holdout is not 0."""

    wandb: bool = False
    """Also send the metrics to Weights & Biases."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Collapse: outputs that no longer differ between positions."""

    warmup_steps: int = 1000
    """Steps before anything is judged."""

    min_std: float = 0.1
    """Mean standard deviation of the targets below which a warning comes; of predictions and local features a tenth."""

    min_rank: float = 2.0
    """Effective rank of predictions or targets below which a warning is given."""

    abort_std: float = 0.01
    """Target standard deviation below which the run stops; 0 never stops."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides the bits of a run, but for its data."""

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

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When the run is saved."""

    log: LogConfig = field(default_factory=LogConfig)
    """What is written while training."""

    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """When a collapse is called one."""

    steps: int = 400_000
    """Optimizer steps."""

    seed: int = 0
    """Decides weights, order of samples, crops, masks and noise."""
