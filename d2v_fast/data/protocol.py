"""What the data side knows of a modality: how its files are read, planned for, and written into a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.data.collection import Collection
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.data.formats.kinds import Kind


class Details(Protocol):
    """What a plan says about the samples of one micro-batch: crops, windows, lengths."""

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 [B], valid entries of each row; None where every row is full."""
        ...


class Sampling(Protocol):
    """How samples of one modality become rows of a batch, for given settings. Its methods are pure functions."""

    def usable(self, sizes: np.ndarray) -> np.ndarray:
        """The samples that take part, int64 ascending; those of unknown size do, to keep their place.

        Raises:
            DataError: There is none.
        """
        ...

    def known(self, sizes: np.ndarray) -> np.ndarray:
        """The sizes, int64, with something of middling size where a sample cannot be read: nothing else shifts."""
        ...

    def lengths(self, sizes: np.ndarray) -> np.ndarray | None:
        """int64 [N], what makes a sample long or short and what a budget counts; None where all are alike."""
        ...

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """How much a batch may hold, in the unit of `lengths`; None if only the number of samples counts.

        Args:
            config: Of the loader.
            longest: The largest length there is.

        Raises:
            DataError: Not even one sample fits.
        """
        ...

    def longest(self, longest: int, budget: int | None) -> int:
        """The most of a sample that is used, in the unit of `lengths`; `longest` is the largest there is."""
        ...

    def draw(self, sizes: np.ndarray, ids: np.ndarray, most: int, seed: int, epoch: int) -> Details:
        """What becomes of these samples in this epoch.

        Args:
            sizes: Of these samples, as `known` gives them.
            ids: int64 [B], the samples.
            most: What `longest` gave.
            seed: Of the run.
            epoch: Of the run.
        """
        ...

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and dtype of the inputs of `count` samples of a plan."""
        ...

    def write(self, out: Tensor, sample: Any, details: Any, row: int, size: np.ndarray, name: str) -> None:
        """Writes one sample into its row of the inputs.

        Args:
            out: The row.
            sample: What `DataSource.read` gave.
            details: Of the batch.
            row: The sample's place in the batch.
            size: Its entry of `DataSource.sizes`.
            name: For messages.

        Raises:
            SampleError: It is not what the source said, or cannot be used.
        """
        ...

    def remarks(self, sizes: np.ndarray, used: int) -> Sequence[str]:
        """What a person should be told about these samples, of which `used` take part."""
        ...


class DaliGraph(Protocol):
    """The part of NVIDIA DALI's engine that belongs to a modality."""

    def define(self, *, gpu: bool) -> Any:
        """The output node of the graph; called within a pipeline."""
        ...

    def example(self) -> Mapping[str, np.ndarray]:
        """What the graph is fed for some sample that can be decoded."""
        ...

    def feed(self, encoded: bytes, details: Any, row: int, size: np.ndarray) -> Mapping[str, np.ndarray] | None:
        """What the graph is fed for a sample.

        Returns:
            "encoded" and what the plan says, by the name of the graph's input; None if DALI is not known to make the
            same of it as the native engine.
        """
        ...


class DataModality(Protocol):
    """The part of a modality that the data side uses; see `d2v_fast.modalities.Modality`."""

    name: str

    inputs: type[InputsConfig]
    """How its files become inputs."""

    size_width: int
    """Numbers that say how large a sample is: 1 (a length) or more (height and width)."""

    budget_field: Literal["batch_seconds", "batch_tokens"] | None
    """The field of `LoaderConfig` that bounds a batch by its content; None if only the number of samples counts."""

    pads: bool
    """Whether `loader.pad` means something: rows may be filled up instead of cropped."""

    def kind(self, inputs: Any | None = None) -> Kind:
        """The files of the modality."""
        ...

    def open(self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int) -> Any:
        """Indexes what was found; returns a `DataSource`."""
        ...

    def open_texts(
        self, names: Sequence[str], texts: Sequence[tuple[str, ...]], inputs: Any, embedding: Any | None
    ) -> Any:
        """Single texts, or pairs, each a sample of its own; returns a `DataSource`.

        Raises:
            DataError: Its samples are no texts.
        """
        ...

    def keep(self, source: Any, run: Path) -> None:
        """Writes what features need to know of a source of one's own into the folder of the run, once."""
        ...

    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> int | tuple[int, ...]:
        """The size of a sample that is given as an array.

        Args:
            number: Of the sample, for messages.
            sample: The array.
            planar: Whether channels come first, as in tensors.

        Raises:
            DataError: It has the wrong shape or number format.
        """
        ...

    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> Sampling:
        """How samples become rows of a batch."""
        ...

    def dali(self, inputs: Any, embedding: Any) -> Callable[[], DaliGraph] | None:
        """Makes the part of DALI's engine, which imports DALI; None where there is nothing to decode."""
        ...


def modality_of(name: str) -> DataModality:
    """The modality of this name.

    Raises:
        ConfigError: Nobody has registered it.
    """
    modality: DataModality = registry.get(name)
    return modality
