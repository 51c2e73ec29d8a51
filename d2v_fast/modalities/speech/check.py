"""Speech: what must fit between the sections of a configuration."""

from __future__ import annotations

from typing import cast

from d2v_fast.config import Config
from d2v_fast.masking.config import SpanMask
from d2v_fast.modalities.frames import check_frames, check_spans
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.windows import check_budget


def check(config: Config) -> None:
    """See `Modality.check`.

    Raises:
        ConfigError: The clips are too short for a frame of the model or for a span, nothing would be masked, a batch
            cannot hold a clip, or the position convolutions do not fit the width.
    """
    embedding, inputs = cast(SpeechEmbedding, config.model.embedding), cast(SpeechInputs, config.inputs)
    check_budget(config.loader, inputs)
    check_frames(embedding, inputs, config.model.transformer.dim)
    check_spans(cast(SpanMask, config.mask), embedding.frames(round(inputs.max_seconds * inputs.sample_rate)))
