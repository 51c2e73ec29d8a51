"""What the formats have to know of a modality: its files, and what a manifest calls their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """The files of a modality."""

    modality: str

    extensions: tuple[str, ...]
    """Of the files that can be read, in lower case."""

    remedies: Mapping[str, str]
    """What to do about known files that cannot be read, by extension."""

    wanted: str
    """For messages: "JPEG or PNG"."""

    fields: tuple[str, ...]
    """What a manifest calls the numbers that the header reader returns."""

    sample_rate: int | None = None
    """Speech: Hz of the clips in a manifest that gives their length only, as wav2vec's do."""


def kind_of(modality: str, sample_rate: int = 16000) -> Kind:
    """The files of a modality."""
    if modality == "vision":
        from d2v_fast.modalities.vision import pictures as images

        return Kind(modality, images.EXTENSIONS, images.REMEDIES, images.FORMATS, ("height", "width"))
    if modality == "speech":
        from d2v_fast.modalities.speech import clips as audio

        return Kind(modality, audio.extensions(), audio.remedies(), audio.FORMATS, ("frames", "rate"), sample_rate)
    from d2v_fast.modalities.text import documents as corpus

    return Kind(modality, corpus.extensions(), corpus.remedies(), corpus.FORMATS, corpus.Measure._fields)
