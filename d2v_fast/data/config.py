"""How files become inputs (one dataclass per modality) and how samples become batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SpeechInputs:
    """Audio clips: resampled, normalised whole, then a random window (data2vec.md 1.10)."""

    sample_rate: int = 16000
    """Hz; other rates are resampled by soxr."""

    min_seconds: float = 2.0
    """Shorter clips are left out."""

    max_seconds: float = 20.0
    """Longer clips give a random window of this length, another one each epoch."""

    normalize: bool = True
    """Zero mean and unit variance over the whole clip."""


@dataclass(frozen=True, kw_only=True)
class VisionInputs:
    """Pictures: a random crop resized (bicubic), a flip, then colour jitter (the published code jitters first)."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the picture's area in a crop; (1, 1) takes the whole picture."""

    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width to height ratio of a crop."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    jitter: float = 0.4
    """Brightness, contrast and saturation factors lie in [1 - jitter, 1 + jitter]; 0 switches them off."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel of a picture in [0, 1]."""

    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Each channel is divided by it."""


@dataclass(frozen=True, kw_only=True)
class TextInputs:
    """Documents: tokenised once, joined with the end token between, cut into blocks."""

    block_size: int = 512
    """Tokens in a block, its begin and end token included."""

    packed: bool = True
    """Join documents into full blocks; False: each document is a sequence of its own, cut where it is longer."""

    tokenizer: str | None = None
    """Path of a `tokenizers` JSON file; None trains a byte-level BPE of the model's vocabulary size on the corpus."""


InputsConfig = SpeechInputs | VisionInputs | TextInputs


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Batches and their making."""

    batch_size: int = 64
    """Samples in a micro-batch, at most."""

    batch_seconds: float | None = None
    """Speech: a micro-batch holds clips of about equal length, at most this much sound; None: any clips, by number."""

    batch_tokens: int | None = None
    """Text: a micro-batch holds sequences of about equal length, at most this many tokens, padding included."""

    pad: bool = False
    """Speech: fill the clips of a batch up with silence to the longest, instead of cropping them to the shortest."""

    accumulation: int = 1
    """Micro-batches in an optimizer step, on all processes together."""

    engine: Literal["auto", "dali", "native"] = "auto"
    """What decodes: NVIDIA DALI, or threads of our own; auto is DALI on a GPU if it is installed."""

    threads: int = 2
    """Decoding threads; they change no bit."""

    prefetch: int = 2
    """Optimizer steps that are prepared ahead."""

    max_skipped: float = 0.01
    """Share of unreadable samples beyond which the run stops (a few are always let pass; 0: none)."""

    holdout: float = 0.0
    """Share of the samples kept for the validation loss."""

    allow_roots: tuple[str, ...] = ()
    """Folders, besides its own, from which a manifest may name files."""
