"""The published recipes, and tiny and small ones, as configurations; every number says where it comes from.

Four rules hold for all of them. Where the paper and the released code disagree, the released code wins and the
docstring gives the paper's value. A size for which no recipe was ever released says from what it is derived. A
preset states what differs from the defaults of the classes, and its docstring where the whole recipe comes from. The
published number format is float16; here it is bfloat16, which needs no loss scaling, where the device multiplies it
(`precision.autocast`).

Paper: "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language", arXiv 2202.03555v3.
Released code: fairseq, `examples/data2vec` (speech, text), and the BEiT-based `data2vec_vision` (vision).

A "2" behind the modality stands for data2vec 2.0 ("Efficient Self-supervised Learning with Contextualized Target
Representations for Vision, Speech and Language", arXiv 2212.07525). Its released code is fairseq's too, and its recipes
are the files below `examples/data2vec/config/v2`. The small presets have no such sign: they are of the method, and for
speech of the front end, that does better at their size.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from d2v_fast.config import Config
from d2v_fast.errors import ConfigError
from d2v_fast.presets.scaling import global_batch, scale_to_batch
from d2v_fast.presets.series import series_tiny
from d2v_fast.presets.small import speech_small, text_small, vision_small
from d2v_fast.presets.spectrogram import spectrogram2_base, spectrogram_tiny
from d2v_fast.presets.speech import speech_base, speech_large
from d2v_fast.presets.speech2 import speech2_base, speech2_large
from d2v_fast.presets.text import text_base, text_large
from d2v_fast.presets.text2 import text2_base, text2_large
from d2v_fast.presets.tiny import speech_tiny, text_tiny, vision_tiny
from d2v_fast.presets.tiny2 import series2_tiny, spectrogram2_tiny, speech2_tiny, text2_tiny, vision2_tiny
from d2v_fast.presets.vision import vision_base, vision_large
from d2v_fast.presets.vision2 import vision2_base, vision2_huge14, vision2_huge16, vision2_large

NAMES: dict[str, Callable[[], Config]] = {
    "series-tiny": series_tiny,
    "series2-tiny": series2_tiny,
    "spectrogram-tiny": spectrogram_tiny,
    "spectrogram2-base": spectrogram2_base,
    "spectrogram2-tiny": spectrogram2_tiny,
    "speech-base": speech_base,
    "speech-large": speech_large,
    "speech-small": speech_small,
    "speech-tiny": speech_tiny,
    "speech2-base": speech2_base,
    "speech2-large": speech2_large,
    "speech2-tiny": speech2_tiny,
    "text-base": text_base,
    "text-large": text_large,
    "text-small": text_small,
    "text-tiny": text_tiny,
    "text2-base": text2_base,
    "text2-large": text2_large,
    "text2-tiny": text2_tiny,
    "vision-base": vision_base,
    "vision-large": vision_large,
    "vision-small": vision_small,
    "vision-tiny": vision_tiny,
    "vision2-base": vision2_base,
    "vision2-huge14": vision2_huge14,
    "vision2-huge16": vision2_huge16,
    "vision2-large": vision2_large,
    "vision2-tiny": vision2_tiny,
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
    "series2_tiny",
    "series_tiny",
    "spectrogram2_base",
    "spectrogram2_tiny",
    "spectrogram_tiny",
    "speech2_base",
    "speech2_large",
    "speech2_tiny",
    "speech_base",
    "speech_large",
    "speech_small",
    "speech_tiny",
    "text2_base",
    "text2_large",
    "text2_tiny",
    "text_base",
    "text_large",
    "text_small",
    "text_tiny",
    "vision2_base",
    "vision2_huge14",
    "vision2_huge16",
    "vision2_large",
    "vision2_tiny",
    "vision_base",
    "vision_large",
    "vision_small",
    "vision_tiny",
]
