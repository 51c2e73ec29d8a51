"""What a modality is: one object that holds everything that belongs to one kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.config import Config
from d2v_fast.data.collection import Collection
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.data.formats.find import one_file
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.protocol import DaliGraph, Sampling
from d2v_fast.data.source import DataSource
from d2v_fast.data.stages import MaskMaker
from d2v_fast.errors import DataError, SampleError
from d2v_fast.masking.config import MaskConfig
from d2v_fast.modalities.drawing import Drawing, Histogram, histogram
from d2v_fast.modalities.long import Long, Timing
from d2v_fast.models.config import EmbeddingConfig, ModelConfig
from d2v_fast.models.encoder import Encoder


class Modality(ABC):
    """Everything that belongs to one kind of input.

    A modality of one's own derives from this class and is made known by `d2v_fast.modalities.register`. What has no
    body here has to be given; the rest is for what the modality can do beyond that.
    """

    name: ClassVar[str]
    """What configurations, commands and messages call it."""

    embedding: ClassVar[type[EmbeddingConfig]]
    """From the input to tokens."""

    inputs: ClassVar[type[InputsConfig]]
    """From a file, or an array, to the input."""

    masks: ClassVar[tuple[type[MaskConfig], ...]]
    """The masks that it can use."""

    masks_inputs: ClassVar[bool] = False
    """Whether the student's input itself is masked (tokens that are replaced), not its local features."""

    mixes: ClassVar[tuple[Literal["mixup", "cutmix"], ...]] = ()
    """How two inputs may be mixed: averaged (of rows of different lengths, padding counts as silence), or a box of one,
    in the last two dimensions, put into the other."""

    default_preset: ClassVar[str | None] = None
    """The preset whose augmentation and masks are shown, if none is named."""

    size_width: ClassVar[int] = 1
    """Numbers that say how large a sample is: 1 (a length), or 2 (height and width)."""

    budget_field: ClassVar[Literal["batch_seconds", "batch_tokens"] | None] = None
    """The field of the loader's configuration that bounds a batch by its content."""

    pads: ClassVar[bool] = False
    """Whether `loader.pad` means something: rows may be filled up instead of cropped."""

    first_token: ClassVar[bool] = False
    """Whether the first token of a sequence stands for all of it, as `<s>` of texts."""

    # The model ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def encoder(self, config: ModelConfig) -> Encoder:
        """A new encoder with random weights of torch's global generator."""

    def initialise_head(self, head: nn.Module) -> None:  # noqa: B027  (torch's own weights are a good default)
        """Gives a new regression head its weights; by default torch's own."""

    def initialise_decoder(self, decoder: nn.Module) -> None:  # noqa: B027  (as released for speech and images)
        """Gives a new decoder (data2vec 2.0) its weights; by default torch's own."""

    @abstractmethod
    def token_count(self, embedding: Any, size: Any) -> Any:
        """How many tokens an input of `size` makes: an int, an array or a tensor like `size`, or a grid."""

    # Data ---------------------------------------------------------------------------------------------------------

    def kind(self, inputs: Any | None = None) -> Kind:
        """The files of the modality.

        Raises:
            DataError: It reads no files.
        """
        raise DataError(f"{self.name} reads no files: give arrays, or a DataSource of your own")

    def open(
        self, found: Collection, inputs: Any, embedding: Any | None, *, run: Path | None, threads: int
    ) -> DataSource:
        """Indexes the files that were found.

        Args:
            found: Files, rows, members of archives.
            inputs: How they become inputs.
            embedding: What the model takes, if there is one.
            run: Folder for the index; None keeps it in memory.
            threads: Threads that read headers.

        Raises:
            DataError: They cannot be used.
        """
        raise DataError(f"{self.name} reads no files: give arrays, or a DataSource of your own")

    def open_texts(
        self, names: Sequence[str], texts: Sequence[tuple[str, ...]], inputs: Any, embedding: Any | None
    ) -> DataSource:
        """Texts with labels, each a sample of its own.

        Args:
            names: A name for each.
            texts: One text each, or a pair.
            inputs: How they become inputs.
            embedding: What the model takes, if there is one.

        Raises:
            DataError: Samples of this modality are no texts.
        """
        raise DataError(f"{self.name} is not made of texts")

    @abstractmethod
    def array_size(self, number: int, sample: np.ndarray, planar: bool) -> int | tuple[int, ...]:
        """The size of sample `number`, which is given as an array (`planar`: as a tensor, channels first).

        Raises:
            DataError: It has the wrong shape or number format.
        """

    @abstractmethod
    def sampling(self, inputs: Any, embedding: Any, config: LoaderConfig) -> Sampling:
        """How samples become rows of a batch."""

    def dali(self, inputs: Any, embedding: Any) -> Callable[[], DaliGraph] | None:
        """Makes the modality's part of NVIDIA DALI's engine; None where there is nothing for it to decode."""
        return None

    @abstractmethod
    def mask_maker(self, config: Config, source: DataSource) -> MaskMaker:
        """Makes the masks of batches of this source.

        Raises:
            ConfigError: The source does not fit the configuration.
        """

    def check(self, config: Config) -> None:  # noqa: B027  (nothing to check is a good default)
        """Checks what has to fit between the sections of a configuration.

        Raises:
            ConfigError: Something does not.
        """

    # Features and people ------------------------------------------------------------------------------------------

    def keep(self, source: Any, run: Path) -> None:  # noqa: B027  (most sources bring nothing of the kind)
        """Writes what `for_features` will look for into the folder of a run on a source of one's own, once."""

    def carry(self, run: Path, out: Path) -> None:  # noqa: B027  (most runs keep nothing of the kind)
        """Copies what `for_features` finds in the folder of a run into that of another one, which goes on from it."""

    def for_features(self, inputs: Any, run: Path) -> Any:
        """The inputs of a run for whole samples after the training.

        Args:
            inputs: Those of its configuration.
            run: Its folder, where the modality may have kept something that belongs to them.
        """
        return inputs

    def for_labels(self, inputs: Any, embedding: Any) -> Any:
        """The inputs of a run for training on samples with labels: none that the model takes is too short for it.

        Args:
            inputs: Those that `for_features` gave.
            embedding: What the model takes.
        """
        return inputs

    def read(self, given: Any, inputs: Any, embedding: Any, *, name: str = "sample") -> Any:
        """A sample as a `DataSource` of this modality reads it, from what a person has at hand.

        Args:
            given: The path of a file, which is read; anything else is returned as it is.
            inputs: How samples become inputs.
            embedding: What the model takes.
            name: For messages.

        Raises:
            SampleError: It cannot be read.
        """
        if not isinstance(given, (str, Path)):
            return given
        try:
            source = self.open(one_file(given, self.kind(inputs)), inputs, embedding, run=None, threads=1)
        except DataError as error:
            raise SampleError(str(given), str(error)) from error
        return source.read(0)

    @abstractmethod
    def prepare(self, sample: np.ndarray | Tensor, inputs: Any, embedding: Any, *, name: str = "sample") -> Tensor:
        """A whole sample as the encoder takes it, without a batch dimension and without any randomness.

        Args:
            sample: As a `DataSource` of this modality reads it.
            inputs: How samples become inputs.
            embedding: What the model takes.
            name: For messages.

        Raises:
            SampleError: It cannot be used.
        """

    def timing(self, inputs: Any, embedding: Any) -> Timing | None:
        """How tokens lie in time, and how long the inputs of training are; None where samples are used whole."""
        return None

    def long(self, source: DataSource, index: int, inputs: Any, embedding: Any) -> Long | None:
        """A sample that may be read a stretch at a time, for windows over long ones; nothing of it is read yet.

        Args:
            source: Where it is.
            index: Its number.
            inputs: How samples become inputs.
            embedding: What the model takes.

        Returns:
            None where this sample is used whole.
        """
        return None

    def suited(self, source: DataSource, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """What the data asks of a configuration that was made for other data, such as the size of its pictures.

        Args:
            source: The data.
            config: Of a preset.

        Returns:
            Dotted names of fields to values; and for some of these names a sentence that says why.
        """
        return {}, {}

    def describe(self, source: DataSource, inputs: Any) -> tuple[list[tuple[str, str]], list[Histogram]]:
        """What `d2v-fast data show` says about a source with samples of known size: (what, value) lines, histograms."""
        sizes = np.asarray(source.sizes)
        known = sizes[(sizes > 0).reshape(len(sizes), -1).all(axis=1)].reshape(-1, self.size_width)
        names = ["size"] if self.size_width == 1 else [f"size {i + 1}" for i in range(self.size_width)]
        return (
            [(name, f"{low:,} to {high:,}") for name, low, high in zip(names, known.min(0), known.max(0), strict=True)],
            [histogram(name, values, "") for name, values in zip(names, known.T, strict=True)],
        )

    def draw(self, source: DataSource, config: Config, batch: Batch) -> Drawing:
        """A batch of the first epoch to be looked at, as it is stored and as teacher and student see it.

        Raises:
            SampleError: A sample cannot be read again.
            DataError: The modality gives no picture.
        """
        raise DataError(f"{self.name} gives no picture of its samples: leave it out by --picture none")
