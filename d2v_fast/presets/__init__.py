"""The published recipes and a tiny one for each modality, as configurations; every number says where it comes from.

Four rules hold for all of them. Where the paper and the released code disagree, the released code wins and the
docstring gives the paper's value. A size for which no recipe was ever released says from what it is derived. A
preset states what differs from the defaults of the classes, and its docstring where the whole recipe comes from. The
published number format is float16; here it is bfloat16, which needs no loss scaling (`precision.autocast` changes it).

Paper: "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language", arXiv 2202.03555v3.
Released code: fairseq, `examples/data2vec` (speech, text), and the BEiT-based `data2vec_vision` (vision).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.presets.scaling import global_batch, scale_to_batch
from d2v_fast.presets.series import series_tiny
from d2v_fast.presets.spectrogram import spectrogram_tiny
from d2v_fast.presets.speech import speech_base, speech_large
from d2v_fast.presets.text import text_base, text_large
from d2v_fast.presets.tiny import speech_tiny, text_tiny, vision_tiny
from d2v_fast.presets.vision import vision_base, vision_large

NAMES: dict[str, Callable[[], Config]] = {
    "series-tiny": series_tiny,
    "spectrogram-tiny": spectrogram_tiny,
    "speech-base": speech_base,
    "speech-large": speech_large,
    "speech-tiny": speech_tiny,
    "text-base": text_base,
    "text-large": text_large,
    "text-tiny": text_tiny,
    "vision-base": vision_base,
    "vision-large": vision_large,
    "vision-tiny": vision_tiny,
}
"""Preset name, as on the command line, to the function that returns its configuration.

A package that brings a modality may add presets of its own when it is imported.
"""


def preset(name: str) -> Config:
    """The configuration of the preset `name`.

    Example:
        >>> config = d2v_fast.preset("vision-base")

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise ConfigError(f"there is no preset {name!r}; {hint}")
    return NAMES[name]()


__all__ = [
    "NAMES",
    "global_batch",
    "preset",
    "scale_to_batch",
    "series_tiny",
    "spectrogram_tiny",
    "speech_base",
    "speech_large",
    "speech_tiny",
    "text_base",
    "text_large",
    "text_tiny",
    "vision_base",
    "vision_large",
    "vision_tiny",
]
