"""The modality "spectrogram" as one object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource, LoaderConfig, MaskMaker
from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.errors import ConfigError, SampleError
from d2v_fast.masking.config import FixedSpanMask, InverseBlockMask, SpanMask
from d2v_fast.modalities import recordings, signals
from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.drawing import Drawing, Histogram
from d2v_fast.modalities.frames import check_spans
from d2v_fast.modalities.long import Long, Timing
from d2v_fast.modalities.npy import checked
from d2v_fast.modalities.patches import check_block, check_kept, initialise_head
from d2v_fast.modalities.recordings import Recordings
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.modalities.spectrogram.draw import draw
from d2v_fast.modalities.spectrogram.encoder import SpectrogramEncoder
from d2v_fast.modalities.spectrogram.masks import mask_maker
from d2v_fast.modalities.spectrogram.sampling import SpectrogramSampling, frames, long, prepared
from d2v_fast.modalities.speech.mel import samples_of
from d2v_fast.modalities.windows import check_budget, shortened
from d2v_fast.models.config import ModelConfig


class Spectrograms(Modality):
    """Spectrograms float32 [B, frames, bins]."""

    name = "spectrogram"
    embedding = SpectrogramEmbedding
    inputs = SpectrogramInputs
    masks = (InverseBlockMask, SpanMask, FixedSpanMask)
    mixes = ("mixup",)
    default_preset = "spectrogram-tiny"
    size_width = 2
    budget_field = "batch_seconds"
    pads = True

    def encoder(self, config: ModelConfig) -> SpectrogramEncoder:
        """See `Modality.encoder`."""
        return SpectrogramEncoder(config)

    def initialise_head(self, head: nn.Module) -> None:
        """As for pictures."""
        initialise_head(head)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """Patches of `size` frames."""
        return embedding.tokens(size)

    def kind(self, inputs: Any | None = None) -> Kind:
        """Sound, and matrices."""
        return recordings.kind(self.name, "WAV, FLAC, OGG or .npy", None if inputs is None else inputs.frame_rate)

    def open(
        self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int
    ) -> DataSource:
        """Indexes clips and matrices."""
        source = Recordings(self.name, found, rate=inputs.sample_rate, mono=True, run=run, threads=threads)
        if embedding is not None:
            source.expect(embedding.bins, "model.embedding.bins", "bins")
        return source

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> tuple[int, ...]:
        """The shape of a matrix; (samples, 1) of a waveform."""
        try:
            return checked(sample.shape, sample.dtype, f"sample {number}")
        except SampleError as error:
            raise DataError(str(error)) from error

    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> SpectrogramSampling:
        """Random windows."""
        return SpectrogramSampling(inputs, embedding, pad=config.pad)

    def mask_maker(self, config: Config, source: DataSource) -> MaskMaker:
        """Blocks of patches, or spans of time."""
        return mask_maker(config.mask, cast(SpectrogramEmbedding, config.model.embedding), config.seed)

    def check(self, config: Config) -> None:
        """Windows fit the model, and masks fit the shortest of them.

        Raises:
            ConfigError: Something does not.
        """
        embedding, inputs = cast(SpectrogramEmbedding, config.model.embedding), cast(SpectrogramInputs, config.inputs)
        check_budget(config.loader, inputs)
        if config.model.transformer.dim % 4:
            raise ConfigError(
                f"model.transformer.dim is {config.model.transformer.dim}, but with fixed positions it must be a "
                "multiple of 4"
            )
        shortest = inputs.shortest
        longest = round(inputs.max_seconds * inputs.frame_rate)
        if longest > embedding.max_frames:
            raise ConfigError(
                f"inputs.max_seconds is {inputs.max_seconds}: {longest} frames, more than model.embedding.max_frames "
                f"{embedding.max_frames}: lower the one or raise the other"
            )
        if shortest < embedding.patch[0]:
            raise ConfigError(
                f"inputs.min_seconds is {inputs.min_seconds}: {shortest} frames are too few for one patch, which takes "
                f"{embedding.patch[0]}: raise it, or lower model.embedding.patch"
            )
        if isinstance(config.mask, InverseBlockMask):
            clip = f"of the shortest clip (inputs.min_seconds {inputs.min_seconds})"
            check_kept(config.mask, int(embedding.tokens(shortest)), clip)
            check_block(config.mask, (shortest // embedding.patch[0], embedding.bands), clip)
        else:
            check_spans(
                config.mask,
                shortest // embedding.patch[0],
                longest // embedding.patch[0],
                config.model.encodes_kept,
            )

    def prepare(self, sample: np.ndarray | Tensor, inputs: Any, embedding: Any, *, name: str = "sample") -> Tensor:
        """The whole spectrogram, normalised, without the frames at its end that fill no patch: [frames, bins].

        Raises:
            SampleError: It has other bins or gaps, or is too short or too long for the model.
        """
        whole, step = prepared(sample, inputs, embedding, name), embedding.patch[0]
        seen = len(whole) // step * step
        if not step <= seen <= embedding.max_frames:
            raise SampleError(
                name, f"has {len(whole)} frames; the model takes {step} to {embedding.max_frames}: cut it"
            )
        return whole[:seen]

    def for_labels(self, inputs: Any, embedding: Any) -> Any:
        """Whatever makes a patch takes part."""
        samples = samples_of(0, embedding.patch[0], inputs.sample_rate, inputs.frame_rate)[1]
        return shortened(inputs, samples)

    def timing(self, inputs: Any, embedding: Any) -> Timing:
        """Columns of patches."""
        patch = embedding.patch[0]
        longest = round(inputs.max_seconds * inputs.frame_rate) // patch
        return Timing(longest, patch / inputs.frame_rate, embedding.bands, embedding.max_frames // patch)

    def long(self, source: DataSource, index: int, inputs: Any, embedding: Any) -> Long | None:
        """See `sampling.long`."""
        return long(source, index, inputs, embedding)

    def suited(self, source: DataSource, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """See `signals.suited`."""
        sizes = np.asarray(source.sizes)
        known = sizes[(sizes > 0).all(axis=1)]
        seconds = frames(known, config.inputs, 0) / config.inputs.frame_rate
        return signals.suited(seconds, source.rates if isinstance(source, Recordings) else None, config.inputs)

    def describe(self, source: DataSource, inputs: Any) -> tuple[list[tuple[str, str]], list[Histogram]]:
        """Hours, lengths and rates."""
        sizes = np.asarray(source.sizes)
        known = sizes[(sizes > 0).all(axis=1)]
        seconds = frames(known, inputs, 0) / inputs.frame_rate
        rates = source.rates if isinstance(source, Recordings) else None
        return signals.describe(seconds, inputs, rates, hours_of="clips")

    def draw(self, source: DataSource, config: Config, batch: Batch) -> Drawing:
        """See `draw.draw`."""
        return draw(source, config, batch)
