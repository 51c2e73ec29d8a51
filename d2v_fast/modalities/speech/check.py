"""Speech: what must fit between the sections of a configuration."""

from __future__ import annotations

from typing import cast

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.masking.config import SpanMask
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs


def check(config: Config) -> None:
    """See `Modality.check`.

    Raises:
        ConfigError: The clips are too short for a frame of the model or for a span, nothing would be masked, a batch
            cannot hold a clip, or the position convolutions do not fit the width.
    """
    embedding, inputs = cast(SpeechEmbedding, config.model.embedding), cast(SpeechInputs, config.inputs)
    mask, loader = cast(SpanMask, config.mask), config.loader
    dim, groups = config.model.transformer.dim, embedding.position_groups
    if dim % groups:
        raise ConfigError(
            f"model.embedding.position_groups is {groups}, but it must divide model.transformer.dim, which is {dim}"
        )
    if loader.batch_seconds is not None and loader.batch_seconds < inputs.min_seconds:
        raise ConfigError(
            f"loader.batch_seconds is {loader.batch_seconds}, less than one clip of inputs.min_seconds "
            f"{inputs.min_seconds}: raise it"
        )
    field = embedding.receptive_field
    shortest = int(inputs.min_seconds * inputs.sample_rate)
    if shortest < field:
        raise ConfigError(
            f"inputs.min_seconds is {inputs.min_seconds}: {shortest} samples are too few for one frame of the model, "
            f"which needs {field}; the least is {_seconds(field, inputs.sample_rate)}"
        )
    longest = embedding.frames(round(inputs.max_seconds * inputs.sample_rate))
    if mask.length > longest:
        raise ConfigError(
            f"mask.length is {mask.length}, but the longest clip (inputs.max_seconds {inputs.max_seconds}) has only "
            f"{longest} frames: lower mask.length or raise inputs.max_seconds"
        )
    if mask.probability == 0 and mask.min_spans == 0:
        raise ConfigError("mask.probability and mask.min_spans are 0: nothing would be masked; raise one of them")


def _seconds(samples: int, rate: int) -> float:
    """The least number of seconds, in steps of 0.1 ms, that is at least so many samples."""
    tenths = -(-samples * 10_000 // rate)
    return tenths / 10_000
