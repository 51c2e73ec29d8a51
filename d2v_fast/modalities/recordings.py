"""Recordings of one or more channels by number, from sound files, .npy files and what a room adds to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from d2v_fast.data.arrays import as_tensor
from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Index
from d2v_fast.data.opening import open_index
from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError, reading
from d2v_fast.modalities import npy
from d2v_fast.modalities.scaling import check_whole, is_transposed
from d2v_fast.modalities.speech import partial, sound
from d2v_fast.modalities.speech.clips import resampled_length

FIELDS = ("length", "width", "rate")
"""What the index knows of a recording: the shape of its matrix as it is stored, [length, width], and the rate in Hz
that its file names; 0 if it names none."""


class Reader(NamedTuple):
    """How files that name no rate are read."""

    shape: Callable[[Store, int], tuple[int, int]]
    """(store, number) -> shape, from the header."""

    load: Callable[[Store, int, tuple[int, int]], np.ndarray]
    """(store, number, shape) -> the matrix."""

    part: Callable[[Store, int, tuple[int, int], slice, int], np.ndarray | None]
    """(store, number, shape, entries, axis) -> these entries along an axis; None where more would have to be read."""


MATRICES: Mapping[str, Reader] = {npy.ENDING: Reader(npy.read_shape, npy.load, npy.load_part)}
"""Readers of files that name no rate, by ending."""


def header(store: Store, index: int, readers: Mapping[str, Reader] = MATRICES) -> tuple[int, int, int]:
    """`FIELDS` of a recording, from as little of its file as possible.

    Raises:
        SampleError: The header cannot be read, or asks for more than fits into memory.
    """
    reader = readers.get(store.extension(index))
    if reader is not None:
        if store.span(index) is not None:
            raise SampleError(store.label(index), "is named in parts, in seconds; only sound files can be cut so")
        return (*reader.shape(store, index), 0)
    frames, rate, channels = sound.read_header(store, index)
    return frames, channels, rate


def decode(store: Store, index: int, sizes: tuple[int, ...], readers: Mapping[str, Reader] = MATRICES) -> np.ndarray:
    """A recording as it is stored: the matrix of a file without a rate; sound as float32 [frames, channels].

    Raises:
        SampleError: The file is gone, cut off, damaged, or no longer what it was when it was indexed.
    """
    length, width, rate = sizes
    reader = readers.get(store.extension(index))
    if reader is not None:
        return reader.load(store, index, (length, width))
    raw = sound.load(store, index, (length, rate))
    if raw.shape[1] != width:
        raise SampleError(store.label(index), f"has {raw.shape[1]} channels, but had {width} when the data was indexed")
    return _floating(raw)


def _floating(raw: np.ndarray) -> np.ndarray:
    return raw.astype(np.float32) / 32768 if raw.dtype == np.int16 else raw


def kind(modality: str, wanted: str, rate: float | None, readers: Mapping[str, Reader] = MATRICES) -> Kind:
    """Recordings as the formats see them.

    Args:
        modality: Its name.
        wanted: The files, for messages.
        rate: Entries in a second of files that name no rate, if it is known.
        readers: Of files that name no rate, by ending.
    """

    def look(store: Store, index: int) -> tuple[int, ...]:
        return header(store, index, readers)

    def deep(store: Store, index: int, sizes: tuple[int, ...]) -> None:
        found = as_tensor(decode(store, index, sizes, readers)).float()
        # how many channels there should be is not known here, so the longer axis is time
        whole = found.T if is_transposed(tuple(found.shape), 0) else found
        check_whole(whole, sizes[2] or rate, store.label(index))

    return Kind(
        modality,
        (*readers, *sound.extensions()),
        sound.remedies(),
        wanted,
        FIELDS,
        header=look,
        decode=deep,
        amount=_amount,
        feature="Audio",
        segments=True,
        guessed=False,  # sound is taken for speech, matrices may be anything
    )


def _amount(sizes: np.ndarray) -> str:
    sound = sizes[:, 2] > 0
    parts = [f"{(sizes[sound, 0] / sizes[sound, 2]).sum() / 3600:,.2f} h of sound"] if sound.any() else []
    if not sound.all():
        parts.append(f"{sizes[~sound, :2].max(axis=1).sum():,} entries over time")
    return ", ".join(parts)


class Recordings:
    """Recordings by number.

    Args:
        modality: Name of the modality.
        found: Files.
        rate: Hz; files that name another rate are resampled.
        mono: Sound is read as the mean over its channels, a waveform [samples].
        readers: Of files that name no rate, by ending.
        run: Folder for the index; None keeps it in memory.
        threads: Threads that read headers.
    """

    def __init__(
        self,
        modality: str,
        found: Collection,
        *,
        rate: int,
        mono: bool,
        readers: Mapping[str, Reader] = MATRICES,
        run: Path | None,
        threads: int,
    ) -> None:
        def look(store: Store, index: int) -> tuple[int, int, int]:
            return header(store, index, readers)

        index, store = open_index(found, modality, look, run=run, threads=threads)
        self.modality = modality
        self.folder = run
        """Where the index is, if it is kept."""
        self.fingerprint = index.fingerprint
        self._store, self._index, self._rate, self._mono, self._readers = store, index, rate, mono, readers
        self.problems = dict(index.problems)
        """Why a recording cannot be read, by its number."""
        self.rates: np.ndarray = index.sizes[:, 2]
        """int64 [N], Hz of the file; 0 where it names none or is unreadable."""
        self.sizes = _sizes(index, rate, mono)
        """int64 [N, 2], the shape of what `read` gives; a waveform has width 1."""
        for i in np.flatnonzero(self.sizes[:, 0] * self.sizes[:, 1] > npy.MOST).tolist():
            self.refuse(i, f"would have {self.sizes[i, 0]} samples at {rate} Hz: its header is damaged, or cut it")

    def __len__(self) -> int:
        return len(self._index.names)

    def name(self, index: int) -> str:
        """The file's path below the folder."""
        return self._index.names[index]

    def label(self, index: int) -> str:
        """What messages call the recording: its path, where there is one."""
        return self._store.label(index)

    def refuse(self, index: int, reason: str) -> None:
        """Makes a recording one that cannot be read."""
        self.problems[index] = reason
        self.sizes[index] = 0

    def expect(self, channels: int, field: str, what: str = "channels") -> None:
        """Refuses matrices with another number of channels; a waveform has none to count.

        Args:
            channels: Of the model.
            field: What says so, for messages.
            what: The channels are called.
        """
        rows, columns = self.sizes.T
        have = np.where(is_transposed((rows, columns), channels), rows, columns)
        for i in np.flatnonzero((have != channels) & ~((self.rates > 0) & self._mono)).tolist():
            if i not in self.problems:
                self.refuse(i, f"has {have[i]} {what}, but {field} is {channels}")

    def read(self, index: int) -> np.ndarray:
        """Decodes a recording: sound resampled, a waveform [samples] or float32 [samples, channels]; else its matrix.

        Raises:
            SampleError: The file is gone, cut off, damaged, or no longer what it was when it was indexed.
        """
        label = self._store.label(index)
        if index in self.problems:
            raise SampleError(label, self.problems[index])
        with reading(label):
            length, width, rate = self._index.sizes[index].tolist()
            found = decode(self._store, index, (length, width, rate), self._readers)
            if rate == 0:
                return found
            if self._mono:
                found = found.mean(axis=1, dtype=np.float32)
            return found if rate == self._rate else soxr.resample(found, rate, self._rate)[: self.sizes[index, 0]]

    def part(self, index: int, start: int, count: int, axis: int = 0) -> np.ndarray | None:
        """The entries [start, start + count) of `read(index)` along an axis, to a rounding; only these are read.

        Returns:
            None where the format cannot be read in parts.

        Raises:
            SampleError: See `read`.
        """
        label = self._store.label(index)
        if index in self.problems:
            raise SampleError(label, self.problems[index])
        length, width, rate = self._index.sizes[index].tolist()
        with reading(label):
            if rate == 0:
                reader = self._readers[self._store.extension(index)]
                return reader.part(self._store, index, (length, width), slice(start, start + count), axis)

            def read(first: int, frames: int) -> np.ndarray | None:
                raw = partial.load(self._store, index, (length, rate), first, frames)
                if raw is None:
                    return None
                found = _floating(raw)
                return found.mean(axis=1, dtype=np.float32) if self._mono else found

            return partial.resampled(read, length, rate, self._rate, start, count)


def _sizes(index: Index, rate: int, mono: bool) -> np.ndarray:
    length, width, rates = index.sizes.T
    sound = rates > 0
    length = np.where(sound, resampled_length(length, rates, rate), length)
    return np.stack([length, np.where(sound & mono, 1, width)], axis=1)
