"""The modality "speech" as one object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource, LoaderConfig, MaskMaker
from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.protocol import DaliGraph
from d2v_fast.masking.config import FixedSpanMask, SpanMask
from d2v_fast.modalities import signals
from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.drawing import Drawing, Histogram
from d2v_fast.modalities.frames import for_labels, span_maker
from d2v_fast.modalities.long import Long, Timing, frame_timing
from d2v_fast.modalities.speech import clips
from d2v_fast.modalities.speech.check import check
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.speech.describe import describe
from d2v_fast.modalities.speech.draw import draw
from d2v_fast.modalities.speech.encoder import SpeechEncoder
from d2v_fast.modalities.speech.prepare import long, prepare
from d2v_fast.modalities.speech.sampling import ClipSampling
from d2v_fast.models.config import ModelConfig


class Speech(Modality):
    """Waveforms float32 [B, samples]."""

    name = "speech"
    embedding = SpeechEmbedding
    inputs = SpeechInputs
    masks = (SpanMask, FixedSpanMask)
    mixes = ("mixup",)
    default_preset = "speech-base"
    budget_field = "batch_seconds"
    pads = True

    def encoder(self, config: ModelConfig) -> SpeechEncoder:
        """See `Modality.encoder`; torch's own weights for heads, as the released code has them."""
        return SpeechEncoder(config)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """Frames of `size` samples."""
        return embedding.frames(size)

    def kind(self, inputs: Any | None = None) -> Kind:
        """Audio files; manifests with lengths only mean clips at the configured rate."""
        return clips.kind(16000 if inputs is None else inputs.sample_rate)

    def open(
        self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int
    ) -> DataSource:
        """Indexes clips."""
        return clips.open_audio(found, inputs, run=run, threads=threads)

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> int:
        """Samples."""
        if sample.ndim != 1 or not (sample.dtype == np.int16 or sample.dtype.kind == "f"):
            raise DataError(
                f"sample {number} is {sample.dtype} {list(sample.shape)}; a clip is one-dimensional, int16 or floating "
                "point in [-1, 1]"
            )
        return len(sample)

    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> ClipSampling:
        """Random windows."""
        return ClipSampling(inputs, pad=config.pad)

    def dali(self, inputs: Any, embedding: Any) -> Callable[[], DaliGraph]:
        """Decodes WAV and FLAC."""

        def make() -> DaliGraph:
            from d2v_fast.modalities.speech.dali import ClipGraph  # imports DALI

            return ClipGraph(inputs)

        return make

    def mask_maker(self, config: Config, source: DataSource) -> MaskMaker:
        """Spans of frames."""
        embedding = cast(SpeechEmbedding, config.model.embedding)
        return span_maker(config.mask, embedding, config.seed)

    def check(self, config: Config) -> None:
        """See `check.check`."""
        check(config)

    def prepare(self, sample: np.ndarray | Tensor, inputs: Any, embedding: Any, *, name: str = "sample") -> Tensor:
        """See `d2v_fast.modalities.speech.prepare`."""
        return prepare(sample, inputs, embedding, name)

    def for_labels(self, inputs: Any, embedding: Any) -> Any:
        """Whatever makes a frame takes part."""
        return for_labels(inputs, embedding)

    def timing(self, inputs: Any, embedding: Any) -> Timing:
        """Frames."""
        return frame_timing(embedding, inputs.max_seconds, inputs.sample_rate)

    def long(self, source: DataSource, index: int, inputs: Any, embedding: Any) -> Long | None:
        """See `d2v_fast.modalities.speech.prepare`."""
        return long(source, index, inputs, embedding)

    def suited(self, source: DataSource, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """See `signals.suited`; the rate stays, since the convolutions belong to it."""
        sizes = np.asarray(source.sizes)
        return signals.suited(sizes[sizes > 0] / config.inputs.sample_rate, None, config.inputs)

    def describe(self, source: DataSource, inputs: Any) -> tuple[list[tuple[str, str]], list[Histogram]]:
        """See `d2v_fast.modalities.speech.describe`."""
        return describe(source, inputs)

    def draw(self, source: DataSource, config: Config, batch: Batch) -> Drawing:
        """See `d2v_fast.modalities.speech.draw`."""
        return draw(source, config, batch)
