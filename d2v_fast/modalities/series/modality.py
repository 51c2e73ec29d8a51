"""The modality "series" as one object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data import DataError, DataSource, LoaderConfig, MaskMaker
from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.errors import ConfigError, SampleError
from d2v_fast.masking.config import FixedSpanMask, SpanMask
from d2v_fast.modalities import signals
from d2v_fast.modalities.base import Modality
from d2v_fast.modalities.drawing import Drawing, Histogram
from d2v_fast.modalities.frames import check_frames, check_spans, for_labels, span_maker
from d2v_fast.modalities.long import Long, Timing, frame_timing
from d2v_fast.modalities.npy import checked
from d2v_fast.modalities.recordings import Recordings
from d2v_fast.modalities.series import source as files
from d2v_fast.modalities.series.config import SeriesEmbedding, SeriesInputs
from d2v_fast.modalities.series.draw import draw
from d2v_fast.modalities.series.encoder import SeriesEncoder
from d2v_fast.modalities.series.sampling import SeriesSampling, long, prepared
from d2v_fast.modalities.windows import check_budget
from d2v_fast.models.config import ModelConfig


class Series(Modality):
    """Signals of many channels float32 [B, samples, channels]."""

    name = "series"
    embedding = SeriesEmbedding
    inputs = SeriesInputs
    masks = (SpanMask, FixedSpanMask)
    mixes = ("mixup",)
    default_preset = "series-tiny"
    size_width = 2
    budget_field = "batch_seconds"
    pads = True

    def encoder(self, config: ModelConfig) -> SeriesEncoder:
        """See `Modality.encoder`."""
        return SeriesEncoder(config)

    def token_count(self, embedding: Any, size: Any) -> Any:
        """Frames of `size` samples."""
        return embedding.frames(size)

    def kind(self, inputs: Any | None = None) -> Kind:
        """Files of matrices, and sound."""
        return files.kind(inputs)

    def open(
        self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int
    ) -> DataSource:
        """Indexes recordings."""
        channels = None if embedding is None else embedding.channels
        return files.open_series(found, inputs, channels, run=run, threads=threads)

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> tuple[int, ...]:
        """The shape; which axis is time is decided where the number of channels is known."""
        try:
            return checked(sample.shape, sample.dtype, f"sample {number}")
        except SampleError as error:
            raise DataError(str(error)) from error

    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> SeriesSampling:
        """Random windows."""
        return SeriesSampling(inputs, embedding.channels, pad=config.pad)

    def mask_maker(self, config: Config, source: DataSource) -> MaskMaker:
        """Spans of frames, of all channels at once."""
        embedding = cast(SeriesEmbedding, config.model.embedding)
        return span_maker(config.mask, embedding, config.seed)

    def check(self, config: Config) -> None:
        """Clips make frames, spans fit, and as many channels are named as the model takes.

        Raises:
            ConfigError: Something does not.
        """
        embedding, inputs = cast(SeriesEmbedding, config.model.embedding), cast(SeriesInputs, config.inputs)
        check_budget(config.loader, inputs)
        check_frames(embedding, inputs, config.model.transformer.dim)
        shortest, longest = (round(s * inputs.sample_rate) for s in (inputs.min_seconds, inputs.max_seconds))
        check_spans(config.mask, embedding.frames(shortest), embedding.frames(longest), config.model.encodes_kept)
        if inputs.channels and len(inputs.channels) != embedding.channels:
            raise ConfigError(
                f"inputs.channels names {len(inputs.channels)} channels, but model.embedding.channels is "
                f"{embedding.channels}"
            )

    def prepare(self, sample: np.ndarray | Tensor, inputs: Any, embedding: Any, *, name: str = "sample") -> Tensor:
        """The whole recording, normalised, without the samples at its end that no frame sees: [samples, channels].

        Raises:
            SampleError: It lacks channels, has gaps, or is too short for a frame.
        """
        whole = prepared(sample, inputs, embedding.channels, name)
        if len(whole) < embedding.receptive_field:
            raise SampleError(
                name, f"has {len(whole)} samples; the first frame of this model needs {embedding.receptive_field}"
            )
        return whole[: embedding.seen(len(whole))]

    def for_labels(self, inputs: Any, embedding: Any) -> Any:
        """Whatever makes a frame takes part."""
        return for_labels(inputs, embedding)

    def timing(self, inputs: Any, embedding: Any) -> Timing:
        """Frames."""
        return frame_timing(embedding, inputs.max_seconds, inputs.sample_rate)

    def long(self, source: DataSource, index: int, inputs: Any, embedding: Any) -> Long | None:
        """See `sampling.long`."""
        return long(source, index, inputs, embedding)

    def describe(self, source: DataSource, inputs: Any) -> tuple[list[tuple[str, str]], list[Histogram]]:
        """Hours, lengths, channels and rates."""
        sizes = np.asarray(source.sizes)
        known = sizes[(sizes > 0).all(axis=1)]
        time, channels = np.sort(known, axis=1)[:, ::-1].T
        rates = source.rates if isinstance(source, Recordings) else None
        lines, histograms = signals.describe(
            time / inputs.sample_rate, inputs, rates, hours_of="recordings", what="recordings"
        )
        counts, numbers = np.unique(channels, return_counts=True)
        lines.append(("channels", ", ".join(f"{count} in {n:,}" for count, n in zip(counts, numbers, strict=True))))
        return lines, histograms

    def draw(self, source: DataSource, config: Config, batch: Batch) -> Drawing:
        """See `draw.draw`."""
        return draw(source, config, batch)
