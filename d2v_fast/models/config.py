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

    @property
    def biases(self) -> bool:
        """Whether positions are a bias on the attention scores, which not every kernel takes."""
        return False

    @property
    def class_token(self) -> bool:
        """Whether sequences begin with a class token of the embedding's own, beside `transformer.extra_tokens`."""
        return False


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Section):
    """The context network."""

    section: ClassVar[str] = "model.transformer"

    dim: int = 768
    """Width C."""

    depth: int = 12
    """Number of blocks, those of the prenet included."""

    prenet: int = 0
    """How many of the blocks, from the first on, are a prenet: their features are never targets, and drop path leaves
    them alone (data2vec 2.0)."""

    extra_tokens: int = 0
    """Learned tokens before every sequence, beside the class token that pictures and spectrograms have anyway: an
    utterance token, a document token."""

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

    input_dropout: float | None = None
    """On the embedded tokens; None: as `dropout`."""

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
        check.at_least(0, "extra_tokens")
        blocks = f"at least 0 and below {check.name}.depth, which is {self.depth}"
        check.require(0 <= self.prenet < self.depth, "prenet", blocks)
        check.require(self.dim % self.heads == 0, "heads", f"a divisor of {check.name}.dim, which is {self.dim}")
        check.above_zero("norm_eps", "layer_scale")
        check.below_one("dropout", "attention_dropout", "activation_dropout", "layer_drop", "drop_path")
        if self.input_dropout is not None:
            check.below_one("input_dropout")


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Section):
    """data2vec 1.0: the student encodes all positions, and a small network predicts from those that are masked."""

    section: ClassVar[str] = "model.head"

    layers: int = 1
    """1: one linear map. n > 1: n - 1 hidden layers of width 2 * C with GELU between."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "layers")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Section):
    """data2vec 2.0: the student encodes the kept positions only, and convolutions over all of them predict the rest."""

    section: ClassVar[str] = "model.head"

    dim: int = 384
    """Width of the convolutions."""

    layers: int = 4
    """Convolutions, each with LayerNorm and GELU."""

    kernel: int = 7
    """Positions that each of them sees (in each direction on a grid: of pictures, of spectrograms in several bands)."""

    groups: int = 16
    """Groups of each of them."""

    residual: bool = True
    """Add a layer's input to its output where their widths agree."""

    projection_layers: int = 1
    """Linear maps from the convolutions to predictions, with GELU between."""

    projection_ratio: float = 2.0
    """Width of the hidden layers between these maps, as a multiple of `dim`."""

    input_dropout: float = 0.1
    """On the encoder's output."""

    noise: float = 0.01
    """Standard deviation of the normal noise that stands at the positions that were not encoded."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "dim", "layers", "kernel", "groups", "projection_layers")
        check.require(self.dim % self.groups == 0, "groups", f"a divisor of {check.name}.dim, which is {self.dim}")
        check.above_zero("projection_ratio")
        wide = self.projection_layers == 1 or self.hidden >= 1
        check.require(wide, "projection_ratio", "so large that the hidden layers have a channel")
        check.below_one("input_dropout")
        check.at_least(0, "noise")

    @property
    def hidden(self) -> int:
        """Channels of the projection's hidden layers."""
        return int(self.dim * self.projection_ratio)


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
    """The regression losses: summed over channels, averaged over masked positions, or over masked views."""

    section: ClassVar[str] = "model.loss"

    beta: float = 0.0
    """Where smooth-L1 turns from a parabola to a line; 0 means squared error (without the factor 1/2)."""

    scale: float | None = None
    """Factor on the sum over channels; None means 1 / sqrt(C)."""

    class_token: float = 0.0
    """Weight of a second loss: how far the output at the extra tokens (their mean, if there are several) is from the
    mean of the targets over the whole sequence, averaged over masked views; 0: there is none. fairseq's `cls_loss` c
    is a factor on a sum, so it stands for c times the masked views in a batch of one GPU: .01 * 16 pictures * 16 views
    = 2.56."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(0, "beta", "class_token")
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

    head: HeadConfig | DecoderConfig = field(default_factory=HeadConfig)
    """From the student's output to predictions; what it is decides between data2vec 1.0 and 2.0."""

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

    @property
    def encodes_kept(self) -> bool:
        """Whether the student encodes the kept positions only (data2vec 2.0), and there is no mask token."""
        return isinstance(self.head, DecoderConfig)

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        network, head = self.transformer, self.head
        counted = network.depth - network.prenet
        if self.target.top_k > counted:
            depth = f"{check.name}.transformer.depth is only {network.depth}"
            prenet = f" and {network.prenet} of them are the prenet" if network.prenet else ""
            raise ConfigError(
                f"{check.name}.target.top_k is {self.target.top_k}, but {depth}{prenet}: the targets are the average "
                "of that many blocks"
            )
        if isinstance(head, DecoderConfig) and network.dim % head.groups:
            raise ConfigError(
                f"{check.name}.head.groups is {head.groups}, but it must divide {check.name}.transformer.dim, which is "
                f"{network.dim}: the decoder's first convolution takes the encoder's output"
            )
        if self.loss.class_token > 0:
            self._check_class_token(check)

    def _check_class_token(self, check: Check) -> None:
        """The second loss belongs to data2vec 2.0, and needs a token.

        Raises:
            ConfigError: one of them is missing.
        """
        given = f"{check.name}.loss.class_token is {self.loss.class_token}, but"
        if not self.encodes_kept:
            raise ConfigError(
                f"{given} {check.name}.head is no DecoderConfig: the loss belongs to data2vec 2.0; set it to 0"
            )
        if not (self.embedding.class_token or self.transformer.extra_tokens):
            raise ConfigError(
                f"{given} there is no token that it could be of: set {check.name}.transformer.extra_tokens to 1, or "
                f"{check.name}.loss.class_token to 0"
            )
