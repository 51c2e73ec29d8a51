"""Where samples come from: the `DataSource` protocol, samples in memory, and the one door to files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from d2v_fast.data.arrays import plain
from d2v_fast.data.begun import check_fingerprint
from d2v_fast.data.collection import Collection
from d2v_fast.data.config import InputsConfig
from d2v_fast.data.formats import find, tables
from d2v_fast.data.formats.find import listed, together
from d2v_fast.data.protocol import DataModality, modality_of
from d2v_fast.errors import DataError, SampleError


@dataclass(frozen=True)
class Lost:
    """Documents, lines or rows that are in no sample because they could not be read. They count as broken samples."""

    count: int
    """How many."""

    total: int
    """Of how many."""

    first: str
    """Names some of them, with reasons."""


@runtime_checkable
class DataSource(Protocol):
    """Samples by number. A class of one's own with these six members can be trained on.

    Three more are optional. `lost`, a `Lost`, says what could not be made a sample of. `encoded(index) -> bytes` gives
    the sample as a JPEG, PNG, WAV, FLAC or OGG file, for engines that decode themselves; it raises SampleError as
    `read` does. `part(index, start, count, axis)` gives the entries [start, start + count) of `read(index)` along an
    axis without reading the rest, or None where that cannot be done, for windows over long samples.

    `read` gives, by modality:

    * speech: a clip at `inputs.sample_rate`, an array or tensor [samples], int16 or floating point in [-1, 1];
    * vision: a picture, uint8, an array [height, width] or [height, width, channels], or a tensor
      [channels, height, width];
    * series: numbers [samples, channels] or [channels, samples]; spectrogram: [frames, bins] or [bins, frames], or a
      waveform [samples];
    * text: one block of `inputs.block_size` token ids. A text source also has `mask_id`, `pad_id`, `special_ids` and
      `vocab_size`.
    """

    modality: str
    """Name of its modality."""

    sizes: np.ndarray
    """int64 [N] samples or tokens, [N, 2] height and width, or [N, 2] the shape of a matrix (a waveform: samples, 1); 0
    where a sample is known to be unreadable."""

    fingerprint: str
    """Changes when the data does; a run is continued with the same fingerprint only."""

    def __len__(self) -> int:
        """Number of samples N."""
        ...

    def name(self, index: int) -> str:
        """A name that stays with the sample: it decides what is held out, and messages show it."""
        ...

    def read(self, index: int) -> np.ndarray | Tensor:
        """The sample itself; called from several threads.

        Raises:
            SampleError: This sample cannot be read: it is skipped.
        """
        ...


class ArraySource:
    """Samples that are in memory already, as arrays or tensors.

    Args:
        modality: Name of a modality that takes arrays.
        samples: As the modality takes them. Clips [samples], int16 or floating point, at the configured sample rate;
            pictures, uint8, arrays [height, width] or [height, width, channels], tensors [height, width] or
            [channels, height, width]. A list, or one array or tensor that has them along its first dimension.
        names: A name for each sample; their numbers by default.

    Raises:
        DataError: No samples, another modality, or a sample of the wrong shape or number format.
    """

    def __init__(
        self, modality: str, samples: Sequence[np.ndarray | Tensor], names: Sequence[str] | None = None
    ) -> None:
        kind = modality_of(modality)
        _check_listed(samples, "samples")
        if len(samples) == 0:
            raise DataError("ArraySource needs at least one sample")
        if names is not None:
            _check_listed(names, "names")
            if len(names) != len(samples):
                raise DataError(f"ArraySource got {len(names)} names for {len(samples)} samples")
            for i in range(len(names)):
                if not isinstance(names[i], str):
                    raise DataError(f"ArraySource: name {i} is a {type(names[i]).__name__}, not a string")
        self.modality = modality
        self._samples = samples
        self._names = names
        digest = hashlib.blake2b(modality.encode(), digest_size=16)
        sizes = []
        for i in range(len(samples)):
            given = samples[i]
            try:
                sample = plain(given)
            except (TypeError, ValueError, RuntimeError) as error:
                raise DataError(f"sample {i} is a {type(given).__name__}, which makes no array: {error}") from error
            size = kind.array_size(i, sample, planar=isinstance(given, Tensor))
            sample = np.ascontiguousarray(sample)
            digest.update(f"{sample.dtype}{sample.shape}".encode())
            digest.update(sample.data)
            sizes.append(size)
        self.sizes = np.array(sizes, dtype=np.int64)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """The name given for this sample, or its number."""
        return str(index) if self._names is None else self._names[index]

    def read(self, index: int) -> np.ndarray | Tensor:
        """The array, or the tensor, on the CPU."""
        given = self._samples[index]
        return torch.from_numpy(plain(given)) if isinstance(given, Tensor) else plain(given)

    def part(self, index: int, start: int, count: int, axis: int = 0) -> np.ndarray | Tensor:
        """The entries [start, start + count) of `read(index)` along an axis."""
        some = self._samples[index][(slice(None),) * axis + (slice(start, start + count),)]
        return torch.from_numpy(plain(some)) if isinstance(some, Tensor) else plain(some)


Openable = str | Path | DataSource | np.ndarray | Tensor | Sequence[Any] | Any
"""What `open_source` takes. "Any" is a `datasets.Dataset`, whose type only the extra hf brings."""


def open_source(
    data: Openable,
    modality: str,
    inputs: InputsConfig,
    *,
    embedding: Any | None = None,
    run: Path | None = None,
    threads: int = 2,
    allow_roots: Sequence[str] = (),
    thorough: bool = False,
) -> DataSource:
    """Opens what there is: files, manifests, tar shards, tables of `datasets`, arrays, or a source of one's own.

    A folder is searched with its subfolders (hidden files are left out) and sorted by name. The headers are read
    once, into `run`/index.bin; later calls with the same `run` compare the files, or some of very many, with
    it; each is compared when it is read, too. Text is also tokenised once, into `run`/tokens.bin with
    `run`/tokenizer.json.

    Args:
        data: A folder of files or of tar shards, or one that `datasets` has saved; a manifest (.tsv, .csv, .jsonl,
            .parquet); shards by a pattern ("train-{000..099}.tar"), an address that fsspec knows ("s3://..."), or a
            list of these or of fsspec's open files; text: a .txt, .jsonl or .parquet file; a `datasets.Dataset`; an
            array or tensor of samples, or a list of them; or a `DataSource`, which is checked and returned.
        modality: Name of the modality.
        inputs: How files become inputs.
        embedding: What the model takes; text needs it to train a tokenizer.
        run: Folder for the index; None keeps it in memory.
        threads: Threads that read headers.
        allow_roots: Folders that a manifest may name besides those below its own.
        thorough: Compare everything with the index in `run`, however large it is.

    Raises:
        DataError: A wrong path, an empty folder, formats that cannot be read, or data that changed since the run began.
    """
    found = collect(data, modality, inputs, run=run, allow_roots=allow_roots, thorough=thorough)
    opens = modality_of(modality)
    if found is None:
        own: Any = data
        if isinstance(data, (np.ndarray, Tensor)) or _is_list_of_arrays(data):
            own = ArraySource(modality, own)
        return _own_source(own, opens, run)
    source: DataSource = opens.open(found, inputs, embedding, run=run, threads=threads)
    return source


def collect(
    data: Openable,
    modality: str,
    inputs: InputsConfig,
    *,
    run: Path | None = None,
    allow_roots: Sequence[str] = (),
    thorough: bool = False,
) -> Collection | None:
    """Finds files, rows or members without opening any; None for arrays and sources of one's own.

    The arguments and errors are those of `open_source`.
    """
    check_given(data)
    opens = modality_of(modality)
    if not isinstance(inputs, opens.inputs):
        raise DataError(f"{type(inputs).__name__} does not describe the inputs of modality {modality!r}")
    if isinstance(data, (str, Path)):
        return find(data, opens.kind(inputs), run=run, allow_roots=allow_roots, thorough=thorough)
    if tables.is_table(data):
        return tables.rows(data, opens.kind(inputs))
    names = listed(data)
    return None if names is None else together(names, opens.kind(inputs))


def check_given(data: object) -> None:
    """Refuse a path that is empty: it would mean the folder where the program happens to run.

    Raises:
        DataError: It is.
    """
    if isinstance(data, str) and not data.strip():
        raise DataError("data is empty: give the path of a folder or a file")


def _is_list_of_arrays(data: object) -> bool:
    return isinstance(data, (list, tuple)) and len(data) > 0 and isinstance(data[0], (np.ndarray, Tensor))


def _check_listed(given: Any, what: str) -> None:
    """Refuse what has no length or cannot be read by number: generators, sets, a single number."""
    countable = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    if not countable or (isinstance(given, (np.ndarray, Tensor)) and given.ndim == 0):
        raise DataError(f"ArraySource: {what} are a {type(given).__name__}, not a list or an array of them")


def _own_source(data: DataSource, modality: DataModality, run: Path | None) -> DataSource:
    """Checks a source of one's own.

    Raises:
        DataError: A member is missing, is not of its type, or raises something itself.
    """
    try:
        _check_own(data, modality)
    except DataError:
        raise
    except Exception as error:  # the members are somebody else's code
        raise DataError(f"data: the {type(data).__name__} failed: {type(error).__name__}: {error}") from error
    if run is not None:
        check_fingerprint(run, modality.name, len(data), data.fingerprint)
        modality.keep(data, run)
    return data


def _check_own(data: DataSource, modality: DataModality) -> None:
    if not isinstance(data, DataSource):
        missing = [m for m in ("modality", "sizes", "fingerprint", "__len__", "name", "read") if not hasattr(data, m)]
        raise DataError(
            f"data is a {type(data).__name__}, neither a path nor a DataSource: it lacks {', '.join(missing)}"
        )
    if data.modality != modality.name:
        raise DataError(f"data holds {data.modality}, the model is made for {modality.name}")
    if len(data) == 0:
        raise DataError(f"data: the {type(data).__name__} is empty")
    expected = (len(data),) if modality.size_width == 1 else (len(data), modality.size_width)
    if np.shape(data.sizes) != expected:
        raise DataError(f"data.sizes has shape {np.shape(data.sizes)}, expected {expected}")
    if np.asarray(data.sizes).dtype.kind not in "iu":
        raise DataError(f"data.sizes are {np.asarray(data.sizes).dtype}, expected integers")
    if (np.asarray(data.sizes) < 0).any():
        raise DataError("data.sizes has negative numbers; 0 stands for a sample that cannot be read")
    if not isinstance(data.fingerprint, str):
        raise DataError(f"data.fingerprint is {data.fingerprint!r}, expected a string")
    if not isinstance(name := data.name(0), str):
        raise DataError(f"data.name(0) is {name!r}, expected a string")
    if not isinstance(lost := getattr(data, "lost", None), Lost | None):
        raise DataError(f"data.lost is {lost!r}, expected a Lost")


__all__ = ["ArraySource", "DataError", "DataSource", "Openable", "SampleError", "open_source"]
