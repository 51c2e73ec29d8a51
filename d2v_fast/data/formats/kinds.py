"""What the formats have to know of a modality: its files, how they are read, and what a manifest says about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2v_fast.data.store import Store


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

    header: Callable[[Store, int], tuple[int, ...]]
    """(store, number) -> the sizes of a sample, from as little of its file as possible.

    It raises SampleError for a broken sample and OwnFile for what this program has written itself; any other exception
    makes the sample a broken one too.
    """

    amount: Callable[[np.ndarray], str]
    """int64 [N, k] sizes of the good samples -> how much they are, for `data build`: "3.20 h of sound"."""

    decode: Callable[[Store, int, tuple[int, ...]], None] | None = None
    """(store, number, sizes) decodes a sample and raises if it cannot be used; None: the header reader does all."""

    feature: str | None = None
    """The class of `datasets` features whose columns hold such samples ("Image"); None: columns of strings."""

    documents: bool = False
    """Whether a file holds many samples, and a table of them is no manifest."""

    segments: bool = False
    """Whether a manifest may name parts of files, by `offset` and `duration` in seconds."""

    sample_rate: int | None = None
    """Hz of the clips in a manifest that gives their length only, as wav2vec's do; the last of `fields` is the rate."""

    columns: Callable[[np.ndarray], dict[str, list[Any]]] | None = None
    """int64 [N, k] sizes -> more columns that a manifest has for its reader."""

    guessed: bool = True
    """Whether a folder of such files is taken for this modality if nobody says what it is."""
