"""The configuration of a student-teacher pair. Only the embedding differs between the modalities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Norm = Literal["batch", "instance", "layer"]
Modality = Literal["speech", "vision", "text"]


@dataclass(frozen=True, kw_only=True)
class SpeechEmbedding:
    """Waveform to frames: strided convolutions, each with LayerNorm and GELU; positions by a stack of convolutions."""

    conv_layers: tuple[tuple[int, int, int], ...] = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)
    """(channels, kernel, stride) of each convolution."""

    position_depth: int = 5
    """Convolutions in the position encoder."""

    position_kernel: int = 19
    """Frames that each of them sees."""

    position_groups: int = 16
    """Groups of each of them."""

    gradient_scale: float = 1.0
    """Factor on the gradient that reaches the convolutions."""


@dataclass(frozen=True, kw_only=True)
class VisionEmbedding:
    """Image to patches: one strided convolution, a class token, positions."""

    image_size: int = 224
    """Height and width of the image, in pixels."""

    patch_size: int = 16
    """Height and width of a patch, in pixels."""

    channels: int = 3
    """Colour channels."""

    positions: Literal["relative", "sincos"] = "relative"
    """A learned bias on relative positions, shared by all layers (the released 1.0 code), or fixed sine-cosine ones,
    added to the patches (data2vec 2.0), with which a short run learns where things are."""


@dataclass(frozen=True, kw_only=True)
class TextEmbedding:
    """Tokens to vectors: token and learned position embeddings, LayerNorm."""

    vocab_size: int = 50265
    """Rows of the token embedding."""

    max_length: int = 512
    """Longest sequence, in tokens."""

    pad_id: int = 1
    """The padding token; positions are counted from pad_id + 1."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The context network."""

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


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """From the student's masked positions to predictions."""

    layers: int = 1
    """1: one linear map. n > 1: n - 1 hidden layers of width 2 * C with GELU between."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """What the student regresses (paper, section 3.3)."""

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


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The regression loss: summed over channels, averaged over masked positions."""

    beta: float = 0.0
    """Where smooth-L1 turns from a parabola to a line; 0 means squared error (without the factor 1/2)."""

    scale: float | None = None
    """Factor on the sum over channels; None means 1 / sqrt(C)."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Which part of the student the teacher averages; it shares the rest with the student."""

    averages: Literal["all", "transformer", "layers"] = "layers"
    """The whole encoder; all but its embedding (speech: convolutions, projection); all but embedding and positions."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A student-teacher pair."""

    embedding: SpeechEmbedding | VisionEmbedding | TextEmbedding
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
    def modality(self) -> Modality:
        """The modality, which the embedding decides."""
        if isinstance(self.embedding, SpeechEmbedding):
            return "speech"
        return "vision" if isinstance(self.embedding, VisionEmbedding) else "text"
