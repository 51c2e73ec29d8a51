"""The configuration of a student-teacher pair. Only the embedding, which its modality brings, is not described here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from d2v_fast.checks import Check, Section
from d2v_fast.errors import ConfigError

Norm = Literal["batch", "instance", "layer"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(Section):
    """From the input to tokens. Each modality has a subclass of its own."""

    section: ClassVar[str] = "model.embedding"

    modality: ClassVar[str]
    """Name of the modality that the embedding belongs to."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Section):
    """The context network."""

    section: ClassVar[str] = "model.transformer"

    dim: int = 768
    """Width C."""

    depth: int = 12
    """Number of blocks."""

    heads: int = 12
    """Attention heads."""

    ffn_dim: int = 3072
    """Hidden width of the feed-forward network."""

    norm_first: bool = False
    """LayerNorm before each branch (pre-norm) instead of after each residual sum."""

    norm_eps: float = 1e-5
    """Epsilon of the model's LayerNorms."""

    key_bias: bool = True
    """Whether the key projection has a bias."""

    dropout: float = 0.1
    """After attention, after the feed-forward network and on the embedded tokens."""

    attention_dropout: float = 0.1
    """On the attention weights."""

    activation_dropout: float = 0.0
    """After the GELU."""

    layer_drop: float = 0.0
    """Probability that a training step skips a block."""

    drop_path: float = 0.0
    """Probability that a sample skips a branch of the last block; rises linearly from 0 at the first."""

    layer_scale: float | None = None
    """Initial value of the learned factor on each branch; None for no such factor."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "dim", "depth", "heads", "ffn_dim")
        check.require(self.dim % self.heads == 0, "heads", f"a divisor of {check.name}.dim, which is {self.dim}")
        check.above_zero("norm_eps", "layer_scale")
        check.below_one("dropout", "attention_dropout", "activation_dropout", "layer_drop", "drop_path")


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Section):
    """From the student's masked positions to predictions."""

    section: ClassVar[str] = "model.head"

    layers: int = 1
    """1: one linear map. n > 1: n - 1 hidden layers of width 2 * C with GELU between."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "layers")


@dataclass(frozen=True, kw_only=True)
class TargetConfig(Section):
    """What the student regresses (paper, section 3.3)."""

    section: ClassVar[str] = "model.target"

    top_k: int = 8
    """K, the number of the teacher's last layers that are averaged."""

    feature: Literal["ffn", "block"] = "ffn"
    """The output of a block's feed-forward network before the residual sum, or of the whole block."""

    layer_norm: tuple[Norm, ...] = ("instance",)
    """Norms applied to each layer, in this order."""

    final_norm: tuple[Norm, ...] = ()
    """Norms applied to the average, in this order."""

    exclude_padding: bool = False
    """Leave padded frames out of the instance norm's statistics (the released code counts them)."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "top_k")


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The regression loss: summed over channels, averaged over masked positions."""

    section: ClassVar[str] = "model.loss"

    beta: float = 0.0
    """Where smooth-L1 turns from a parabola to a line; 0 means squared error (without the factor 1/2)."""

    scale: float | None = None
    """Factor on the sum over channels; None means 1 / sqrt(C)."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(0, "beta")
        check.above_zero("scale")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Section):
    """Which part of the student the teacher averages; it shares the rest with the student."""

    section: ClassVar[str] = "model.teacher"

    averages: Literal["all", "transformer", "layers"] = "layers"
    """The whole encoder; all but its embedding (speech: convolutions, projection); all but embedding and positions."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """A student-teacher pair."""

    section: ClassVar[str] = "model"

    embedding: EmbeddingConfig
    """From the input to tokens."""

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """The context network."""

    head: HeadConfig = field(default_factory=HeadConfig)
    """From the student's output to predictions."""

    target: TargetConfig = field(default_factory=TargetConfig)
    """What the student regresses."""

    loss: LossConfig = field(default_factory=LossConfig)
    """How far a prediction is from its target."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """What the teacher averages."""

    @property
    def modality(self) -> str:
        """Name of the modality, which the embedding decides."""
        return self.embedding.modality

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        if self.target.top_k > self.transformer.depth:
            raise ConfigError(
                f"{check.name}.target.top_k is {self.target.top_k}, but {check.name}.transformer.depth is only "
                f"{self.transformer.depth}: the targets are the average of that many blocks"
            )
