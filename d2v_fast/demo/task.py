"""What a demo is made of: something to pretrain on, and labelled samples to judge the features by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np

from d2v_fast.data import DataSource


class DemoError(Exception):
    """The demo cannot run; the message says what to do about it."""


@dataclass(frozen=True)
class Labelled:
    """N samples with labels."""

    inputs: Sequence[np.ndarray]
    """As a `DataSource` reads them: pictures uint8 [8, 8], clips int16 [samples], or token ids int64 [tokens]."""

    labels: np.ndarray
    """int64 [N]."""

    raw: np.ndarray
    """float32 [N, F]: features that need no network, the floor that a representation should be held against."""

    positions: np.ndarray | None = None
    """int64 [N]: the position whose feature is judged; None for the mean over all of them."""

    groups: np.ndarray | None = None
    """int64 [N]: samples of one group are not independent (one voice says many words); None if all are."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """A modality's demo. What is in `test` is in no way part of `source` or `train`."""

    preset: str
    """Name of the preset."""

    source: DataSource
    """The unlabelled samples that the model is pretrained on."""

    train: Labelled
    """What the probes are fitted on."""

    test: Labelled
    """What they are judged by."""

    classes: tuple[str, ...]
    """Names of the labels."""

    label: str
    """What the label is, in a few words."""

    floor: str
    """What `Labelled.raw` is, in a few words."""

    about: str
    """One or two sentences on the data and the split."""

    steps: int | None = None
    """Of a run that is shorter than the preset's (`presets.small.shortened`); None for the preset's own."""

    threads: int | None = None
    """Threads to compute with, at most; None for torch's choice."""


def require(module: str) -> ModuleType:
    """A module of the extra `demo`.

    Raises:
        DemoError: It is not installed; the message is the line that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DemoError(
            f"the demo needs {module.partition('.')[0]} ({error}). Install the extra `demo`: "
            "pip install 'd2v_fast[demo]' (or pip install '.[demo]' in a checkout)"
        ) from error
    except Exception as error:  # for example built for another NumPy
        raise DemoError(f"the demo needs {module}, which cannot be loaded ({type(error).__name__}: {error})") from error


def content_hash(content: bytes) -> int:
    """A number that depends on the content alone: it finds duplicates and decides what is held out."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def held_out(content: bytes, share: float, start: float = 0.0) -> bool:
    """Whether a sample belongs to the test part: its content decides, so the split is the same everywhere.

    Args:
        content: Of the sample, or of what keeps it together with others.
        share: Of all samples that are held out.
        start: Another one, by `share` or more, holds out others.
    """
    return start <= content_hash(content) / 2.0**64 < start + share
