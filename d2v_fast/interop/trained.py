"""What an export writes: an encoder, the outputs on it, and what makes inputs of samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from d2v_fast.data.config import InputsConfig
from d2v_fast.interop.outputs import Outputs
from d2v_fast.models import Encoder
from d2v_fast.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network of a run, on the CPU, in float32 and in eval mode."""

    encoder: Encoder
    """The encoder."""

    network: nn.Module
    """(inputs, lengths) -> features [B, T, C]; of a fine-tuned run its outputs, [B, K] or [B, T, K]."""

    config: ModelConfig
    """Of the encoder."""

    inputs: InputsConfig
    """How the run makes inputs."""

    tokenizer: Path | None = None
    """The `tokenizers` JSON file of the run, where it has one."""

    outputs: Outputs | None = None
    """What is on the encoder, of a fine-tuned run."""


class Written(NamedTuple):
    """What the model card says about a folder's format."""

    usage: str
    """Lines of Python that load it."""

    notes: str
    """What is special about it."""
