"""Clips of sound, from a folder, a manifest, archives or a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr

from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Index
from d2v_fast.data.opening import open_index
from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError, reading
from d2v_fast.modalities.speech import partial, sound
from d2v_fast.modalities.speech.config import SpeechInputs


def kind(sample_rate: int = 16000) -> Kind:
    """Speech as the formats see it."""
    return Kind(
        "speech",
        sound.extensions(),
        sound.remedies(),
        sound.FORMATS,
        ("frames", "rate"),
        header=sound.read_length,
        decode=sound.check_decoded,
        amount=lambda sizes: f"{(sizes[:, 0] / sizes[:, 1]).sum() / 3600:,.2f} h of sound",
        feature="Audio",
        segments=True,
        sample_rate=sample_rate,
        columns=lambda sizes: {"seconds": np.round(sizes[:, 0] / np.maximum(sizes[:, 1], 1), 3).tolist()},
    )


def resampled_length(frames: np.ndarray | int, rate: np.ndarray | int, target: int) -> np.ndarray:
    """Samples that `frames` at `rate` Hz become at `target` Hz, rounded down; int64."""
    return np.asarray(frames, dtype=np.int64) * target // np.maximum(rate, 1)


class Clips:
    """Clips by number; made by `open_audio`."""

    modality = "speech"

    folder: Path | None = None
    """Where the index is, if it is kept."""

    def __init__(self, store: Store, index: Index, sample_rate: int) -> None:
        self._store = store
        self._index = index
        self._rate = sample_rate
        self.frames: np.ndarray = index.sizes[:, 0]
        """int64 [N], length in the file; 0 where it is unreadable."""
        self.rates: np.ndarray = index.sizes[:, 1]
        """int64 [N], Hz of the file; 0 where it is unreadable."""
        self._problems = dict(index.problems)
        self.fingerprint = index.fingerprint
        if index.ranges[1] == (sample_rate, sample_rate):  # as they are: the lengths stay on the disk
            self.sizes = self.frames
            return
        self.sizes = resampled_length(self.frames, self.rates, sample_rate)
        # a header or a manifest that says a few hertz would ask for gigabytes once the clip is resampled
        for i in np.flatnonzero((self.rates < sound.LOWEST_RATE) & (self.rates > 0)).tolist():
            self._problems.setdefault(i, sound.too_slow(int(self.rates[i])))
            self.sizes[i] = 0
        for i in np.flatnonzero((self.sizes > sound.MAX_SAMPLES) & (self.rates != sample_rate)).tolist():
            self._problems[i] = (
                f"has {self.frames[i]} frames at {self.rates[i]} Hz, which are {self.sizes[i]} at {sample_rate} Hz (at "
                f"most {sound.MAX_SAMPLES}): its header is damaged, or cut it"
            )
            self.sizes[i] = 0

    def __len__(self) -> int:
        return len(self._index.names)

    def name(self, index: int) -> str:
        """The file's path below the folder."""
        return self._index.names[index]

    def read(self, index: int) -> np.ndarray:
        """Decodes a clip: [samples] at the configured rate, the mean over its channels; int16, or float32 in [-1, 1].

        Raises:
            SampleError: The file is gone, truncated, damaged, or no longer of the length in the index.
        """
        self._refuse_known(index)
        rate = int(self.rates[index])
        with reading(self._store.label(index)):
            raw = sound.load(self._store, index, (int(self.frames[index]), rate))
            if raw.shape[1] == 1 and rate == self._rate:
                return raw[:, 0]
            clip = _mono(raw)
            return clip if rate == self._rate else soxr.resample(clip, rate, self._rate)[: self.sizes[index]]

    def part(self, index: int, start: int, count: int, axis: int = 0) -> np.ndarray | None:
        """The samples [start, start + count) of `read(index)`, to a rounding; only these are read.

        Returns:
            None where the format cannot be read in parts.

        Raises:
            SampleError: See `read`.
        """
        self._refuse_known(index)
        frames, rate = int(self.frames[index]), int(self.rates[index])

        def read(first: int, length: int) -> np.ndarray | None:
            raw = partial.load(self._store, index, (frames, rate), first, length)
            return None if raw is None else _mono(raw)

        with reading(self._store.label(index)):
            return partial.resampled(read, frames, rate, self._rate, start, count)

    def encoded(self, index: int) -> bytes:
        """The clip's file as it is; whoever decodes it sees whether it still has the length in the index.

        Raises:
            SampleError: It is gone, or known to be broken.
        """
        self._refuse_known(index)
        if self._store.span(index) is not None:
            return b""  # a part of a file is no file: whoever decodes leaves it to `read`
        return self._store.read(index).tobytes()

    def label(self, index: int) -> str:
        """What messages call the clip: its path, where there is one."""
        return self._store.label(index)

    def _refuse_known(self, index: int) -> None:
        if index in self._problems:
            raise SampleError(self._store.label(index), self._problems[index])


def _mono(raw: np.ndarray) -> np.ndarray:
    """The mean over channels as float32 in [-1, 1], of [frames, channels]."""
    clip = raw[:, 0].astype(np.float32) if raw.shape[1] == 1 else raw.mean(axis=1, dtype=np.float32)
    if raw.dtype == np.int16:
        clip /= 32768
    return clip


def open_audio(found: Collection, inputs: SpeechInputs, *, run: Path | None, threads: int) -> Clips:
    """Indexes clips; see `open_source`."""
    index, store = open_index(found, "speech", sound.read_length, run=run, threads=threads)
    clips = Clips(store, index, inputs.sample_rate)
    clips.folder = run
    return clips
