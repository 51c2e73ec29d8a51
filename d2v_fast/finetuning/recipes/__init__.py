"""Settings of fine-tuning by name: what differs from the defaults of `FinetuneConfig`.

A published recipe has the sizes of its data: steps, and samples in a step. It leaves number formats
(`precision.autocast`) and the metric's data to you. What only the paper or only the code says, and where a recipe
deviates, stands in its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2v_fast.finetuning.recipes.audio import AUDIOSET, LIBRISPEECH, LIBRISPEECH2
from d2v_fast.finetuning.recipes.images import IMAGENET, IMAGENET2
from d2v_fast.finetuning.recipes.text import GLUE, GLUE2
from d2v_fast.finetuning.recipes.tiny import TINY

GROUPS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "tiny presets": TINY,
    "ImageNet-1k, data2vec 1.0 (--task classify)": IMAGENET,
    "ImageNet-1k, data2vec 2.0 (--task classify)": IMAGENET2,
    "LibriSpeech, data2vec 1.0 (--task ctc)": LIBRISPEECH,
    "LibriSpeech, data2vec 2.0 (--task ctc)": LIBRISPEECH2,
    "GLUE, data2vec 1.0 (--task classify; stsb: regress)": GLUE,
    "GLUE, data2vec 2.0 (--task classify; stsb: regress)": GLUE2,
    "AudioSet, data2vec 1.0 (--task tag)": AUDIOSET,
}
"""What a group of recipes is for, and the recipes by name."""

RECIPES: Mapping[str, Mapping[str, Any]] = {name: fields for group in GROUPS.values() for name, fields in group.items()}
"""Dotted names of fields to their values, by the recipe's name."""

__all__ = ["GROUPS", "RECIPES"]
