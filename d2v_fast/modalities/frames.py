"""Signals over time to frames: what speech and other signals share of configuration, encoder and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2v_fast import masking
from d2v_fast.checks import Check
from d2v_fast.data.stages import MaskMaker
from d2v_fast.errors import ConfigError
from d2v_fast.masking import Masks
from d2v_fast.masking.config import FixedSpanMask, MaskConfig, SpanMask
from d2v_fast.modalities.windows import WindowInputs, shortened
from d2v_fast.models.config import EmbeddingConfig, ModelConfig
from d2v_fast.models.encoder import Encoder
from d2v_fast.modules.convolution import Frames
from d2v_fast.modules.positions import Alibi, PositionConvolutions
from d2v_fast.ops.distances import Distances


@dataclass(frozen=True, kw_only=True)
class FramesEmbedding(EmbeddingConfig):
    """Signal to frames: strided convolutions, each with LayerNorm and GELU; positions by a stack of convolutions."""

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

    alibi: bool = False
    """Let attention fall off with distance, by a learned factor for each head (ALiBi; data2vec 2.0)."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        positive = bool(self.conv_layers) and all(min(layer) >= 1 for layer in self.conv_layers)
        check.require(positive, "conv_layers", "a list of (channels, kernel, stride), each at least 1")
        check.at_least(1, "position_depth", "position_kernel", "position_groups")
        check.at_least(0, "gradient_scale")

    @property
    def biases(self) -> bool:
        """See `EmbeddingConfig.biases`."""
        return self.alibi

    def frames(self, samples: Any) -> Any:
        """Frames of `samples` samples (an int, a numpy array or a tensor), 0 or less if the signal is too short."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
        return samples

    def samples(self, frames: int) -> int:
        """How many samples `frames` frames look at, at least one frame."""
        for _, kernel, stride in reversed(self.conv_layers):
            frames = (frames - 1) * stride + kernel
        return frames

    def seen(self, samples: int) -> int:
        """How many of `samples` samples the frames look at; what is behind them, less than a stride, changes nothing.

        All of a signal that is too short for a frame: the encoder refuses it with its own length.
        """
        frames = int(self.frames(samples))
        return samples if frames < 1 else self.samples(frames)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees: the shortest signal that makes a frame."""
        return self.samples(1)


class FramesEncoder(Encoder):
    """Signals float32 [B, samples, channels] to [B, T, C]: convolutions, position convolutions, context network.

    Args:
        config: Of the model; its embedding is a `FramesEmbedding`.
        channels: Of the signals.
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        embedding, dim = config.embedding, config.transformer.dim
        assert isinstance(embedding, FramesEmbedding)
        frames = Frames(
            channels, embedding.conv_layers, dim, embedding.gradient_scale, mask_token=not config.encodes_kept
        )
        super().__init__(config, frames, norm=True)
        self.config: FramesEmbedding = embedding
        self.positions = PositionConvolutions(
            dim,
            embedding.position_depth,
            embedding.position_kernel,
            embedding.position_groups,
            fused=config.encodes_kept,
        )
        self.alibi = Alibi(config.transformer.heads) if embedding.alibi else None
        # BERT's initialisation, in the context network only; convolutions and projection keep their own as released.
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def token_lengths(self, lengths: Tensor | None) -> Tensor | None:
        """Valid frames, from valid samples."""
        return None if lengths is None else self.config.frames(lengths)

    def place(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Distances | None]:
        """Add the positions.

        Padded frames are zeroed before the convolutions and not between them, as released; in data2vec 2.0 they are not
        zeroed, as released.
        """
        if valid is not None and not self.encodes_kept:
            x = torch.where(valid.unsqueeze(2), x, 0.0)
        return x + self.positions(x), None if self.alibi is None else self.alibi()

    def place_views(self, x: Tensor, valid: Tensor | None, mask: Tensor) -> tuple[Tensor, Distances | None]:
        """Add positions that see zeros where a frame is hidden, for each view its own."""
        each = x.unsqueeze(1)  # [B, 1, T, C]
        seen = torch.where(mask.view(len(x), -1, x.shape[1], 1), 0.0, each)
        placed = each + self.positions(seen.flatten(0, 1)).view_as(seen)
        return placed.flatten(0, 1), None if self.alibi is None else self.alibi()

    def frames(self, signals: Tensor) -> Tensor:
        """Signals to frames, if they are long enough for one.

        Raises:
            ValueError: if they are not.
        """
        if self.config.frames(signals.shape[1]) < 1:
            raise ValueError(
                f"clips of {signals.shape[1]} samples are too short: one frame needs {self.config.receptive_field}"
            )
        features: Tensor = self.embedding(signals)
        return features


def span_maker(mask: MaskConfig, embedding: FramesEmbedding, seed: int) -> MaskMaker:
    """Spans of frames, for inputs [B, samples, ...] and their lengths in samples."""

    def make(inputs: Tensor, lengths: Tensor | None, sample_ids: np.ndarray, epoch: int) -> Masks:
        width = embedding.frames(inputs.shape[1])
        frames = [width] * len(inputs) if lengths is None else embedding.frames(lengths)
        return spans(mask, frames, width, seed=seed, epoch=epoch, sample_ids=sample_ids)

    return make


def spans(
    mask: MaskConfig, frames: Tensor | Sequence[int], width: int, *, seed: int, epoch: int, sample_ids: np.ndarray
) -> Masks:
    """Spans of either kind: `masking.span_masks` or `masking.fixed_span_masks`."""
    key: dict[str, Any] = {"seed": seed, "epoch": epoch, "sample_ids": sample_ids, "views": mask.views}
    if isinstance(mask, FixedSpanMask):
        return masking.fixed_span_masks(mask, frames, width=width, **key)
    assert isinstance(mask, SpanMask), "a configuration checks what kind of mask it has"
    return masking.span_masks(mask, frames, width=width, **key)


def for_labels(inputs: WindowInputs, embedding: FramesEmbedding) -> WindowInputs:
    """See `Modality.for_labels`: whatever makes a frame takes part."""
    return shortened(inputs, embedding.receptive_field)


def check_frames(embedding: FramesEmbedding, inputs: WindowInputs, dim: int) -> None:
    """The position convolutions fit the width, and the shortest clip makes a frame.

    Raises:
        ConfigError: They do not.
    """
    groups, field = embedding.position_groups, embedding.receptive_field
    if dim % groups:
        raise ConfigError(
            f"model.embedding.position_groups is {groups}, but it must divide model.transformer.dim, which is {dim}"
        )
    shortest = round(inputs.min_seconds * inputs.sample_rate)
    if shortest < field:
        raise ConfigError(
            f"inputs.min_seconds is {inputs.min_seconds}: {shortest} samples are too few for one frame of the model, "
            f"which needs {field}; the least is {_seconds(field, inputs.sample_rate)}"
        )


def check_spans(mask: MaskConfig, shortest: int, longest: int, encodes_kept: bool) -> None:
    """Something is masked, and a span fits.

    Args:
        mask: Spans of either kind. Where their number is fixed, both must be so in every clip.
        shortest: Frames of the shortest clip that is used.
        longest: Of the longest.
        encodes_kept: See `ModelConfig.encodes_kept`: then one span may not hide a whole clip.

    Raises:
        ConfigError: Nothing is masked or kept, or a span does not fit.
    """
    if isinstance(mask, FixedSpanMask):
        _check_fixed_spans(mask, shortest)
        return
    assert isinstance(mask, SpanMask), "a configuration checks what kind of mask it has"
    if mask.length > longest:
        raise ConfigError(
            f"mask.length is {mask.length}, but the longest clip (inputs.max_seconds) has only {longest} frames: lower "
            "mask.length or raise inputs.max_seconds"
        )
    if encodes_kept and mask.length >= shortest:
        raise ConfigError(
            f"mask.length is {mask.length}: of the {shortest} frames of the shortest clip (inputs.min_seconds) nothing "
            "would be kept, which is all that the student of data2vec 2.0 encodes; lower mask.length, or use a "
            "FixedSpanMask"
        )
    if mask.probability == 0 and mask.min_spans == 0:
        raise ConfigError("mask.probability and mask.min_spans are 0: nothing would be masked; raise one of them")


def _check_fixed_spans(mask: FixedSpanMask, shortest: int) -> None:
    if mask.length > shortest:
        raise ConfigError(
            f"mask.length is {mask.length}, but the shortest clip (inputs.min_seconds) has only {shortest} frames: "
            "lower mask.length or raise inputs.min_seconds"
        )
    if int(shortest * mask.ratio) < 1:
        raise ConfigError(
            f"mask.ratio is {mask.ratio}: of the {shortest} frames of the shortest clip (inputs.min_seconds) nothing "
            "would be masked; raise one of them"
        )


def _seconds(samples: int, rate: int) -> float:
    """The least number of seconds, in steps of 0.1 ms, that is at least so many samples."""
    tenths = -(-samples * 10_000 // rate)
    return tenths / 10_000
