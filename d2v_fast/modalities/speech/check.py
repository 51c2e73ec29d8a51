"""Speech: what must fit between the sections of a configuration."""

from __future__ import annotations

from typing import cast

from d2v_fast.config import Config
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
    shortest, longest = (round(s * inputs.sample_rate) for s in (inputs.min_seconds, inputs.max_seconds))
    check_spans(config.mask, embedding.frames(shortest), embedding.frames(longest), config.model.encodes_kept)
