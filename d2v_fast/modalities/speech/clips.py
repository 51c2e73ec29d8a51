"""Clips of sound, from a folder, a manifest, archives or a table: WAV, FLAC, OGG, and what torchcodec adds."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from d2v_fast.data.index import Collection, Index, open_index
from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError
from d2v_fast.modalities.speech import compressed
from d2v_fast.modalities.speech.config import SpeechInputs

FORMATS = "WAV, FLAC or OGG"
_NATIVE = (".wav", ".flac", ".ogg", ".oga", ".opus")
_OTHERS = (*compressed.EXTENSIONS, ".amr", ".aiff", ".ape")
_ENDLESS = 1 << 40
"""A file that claims more frames has an unknown length (a stream that was never finished)."""

_MAX_SAMPLES = 1 << 28
"""Longer clips are refused: a clip is normalised as a whole, so it must fit into memory."""


def extensions() -> tuple[str, ...]:
    """Those of the files that can be read here."""
    if compressed.missing() is None:
        return _NATIVE + compressed.EXTENSIONS
    return (*_NATIVE, ".mp3") if "MP3" in soundfile.available_formats() else _NATIVE


def remedies() -> dict[str, str]:
    """What to do about the files that cannot be read here, by extension."""
    return {e: compressed.remedy(e) for e in _OTHERS if e not in extensions()}


def resampled_length(frames: np.ndarray | int, rate: np.ndarray | int, target: int) -> np.ndarray:
    """Samples that `frames` at `rate` Hz become at `target` Hz, rounded down; int64."""
    return np.asarray(frames, dtype=np.int64) * target // np.maximum(rate, 1)


class Clips:
    """Clips by number; made by `open_audio`."""

    modality = "speech"

    def __init__(self, store: Store, index: Index, sample_rate: int) -> None:
        self._store = store
        self._index = index
        self._rate = sample_rate
        self.frames: np.ndarray = index.sizes[:, 0]
        """int64 [N], length in the file; 0 where it is unreadable."""
        self.rates: np.ndarray = index.sizes[:, 1]
        """int64 [N], Hz of the file; 0 where it is unreadable."""
        self.sizes = resampled_length(self.frames, self.rates, sample_rate)
        self.fingerprint = index.fingerprint

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
        raw = load(self._store, index, (int(self.frames[index]), rate))
        small = raw.dtype == np.int16
        if raw.shape[1] == 1 and rate == self._rate:
            return raw[:, 0]
        clip = raw[:, 0].astype(np.float32) if raw.shape[1] == 1 else raw.mean(axis=1, dtype=np.float32)
        if small:
            clip /= 32768
        return clip if rate == self._rate else soxr.resample(clip, rate, self._rate)[: self.sizes[index]]

    def encoded(self, index: int) -> bytes:
        """The clip's file as it is; whoever decodes it sees whether it still has the length in the index.

        Raises:
            SampleError: It is gone, or known to be broken.
        """
        self._refuse_known(index)
        return self._store.read(index).tobytes()

    def label(self, index: int) -> str:
        """What messages call the clip: its path, where there is one."""
        return self._store.label(index)

    def _refuse_known(self, index: int) -> None:
        if index in self._index.problems:
            raise SampleError(self._store.label(index), self._index.problems[index])


def load(store: Store, index: int, length: tuple[int, int]) -> np.ndarray:
    """Reads and decodes a clip: [frames, channels], int16, or float32 in [-1, 1].

    Raises:
        SampleError: The file is gone, truncated, damaged, or not of this length (frames, rate in Hz).
    """
    label, path = store.label(index), store.path(index)
    if _by_torchcodec(store.names[index]):
        raw, rate = compressed.decode(store.read(index).tobytes() if path is None else path, label)
    else:
        try:
            with _open(store, index, path, whole=True) as file:
                rate = file.samplerate
                _check_length((file.frames, rate), length, label)  # before memory is taken for it
                # reading PCM16 as int16 skips libsndfile's slow conversion; dividing later gives the same bits
                raw = file.read(dtype="int16" if file.subtype == "PCM_16" else "float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise SampleError(label, _reason(error, path)) from error
    _check_length((len(raw), rate), length, label)
    return raw


def _check_length(found: tuple[int, int], expected: tuple[int, int], label: str) -> None:
    if found != expected:
        was = f"{expected[0]} frames at {expected[1]} Hz when the data was indexed"
        raise SampleError(label, f"gives {found[0]} frames at {found[1]} Hz, but had {was}")


def open_audio(found: Collection, inputs: SpeechInputs, *, run: Path | None, threads: int) -> Clips:
    """Indexes clips; see `open_source`."""
    index, store = open_index(found, "speech", read_length, run=run, threads=threads)
    return Clips(store, index, inputs.sample_rate)


def read_length(store: Store, index: int) -> tuple[int, int]:
    """(frames, sample rate in Hz) from the header of an audio file; what needs torchcodec is decoded.

    Raises:
        SampleError: The header cannot be read, there is no sound, or more than fits into memory.
    """
    label, path = store.label(index), store.path(index)
    if _by_torchcodec(store.names[index]):
        raw, rate = compressed.decode(store.read(index).tobytes() if path is None else path, label)
        frames, channels = raw.shape
    else:
        try:
            with _open(store, index, path) as file:
                frames, rate, channels = file.frames, file.samplerate, file.channels
        except (soundfile.SoundFileError, OSError) as error:
            raise SampleError(label, _reason(error, path)) from error
    if frames <= 0 or rate <= 0:
        raise SampleError(label, "has no samples")
    if frames > _ENDLESS:
        raise SampleError(label, "does not say how long it is: encode it again")
    if frames * channels > _MAX_SAMPLES:
        hours = frames / rate / 3600
        raise SampleError(label, f"has {frames * channels} samples, {hours:.1f} h (at most {_MAX_SAMPLES}): cut it")
    return frames, rate


def _by_torchcodec(name: str) -> bool:
    extension = os.path.splitext(name)[1].lower()
    return extension in compressed.EXTENSIONS and not (extension == ".mp3" and "MP3" in soundfile.available_formats())


def _open(store: Store, index: int, path: Path | None, whole: bool = False) -> soundfile.SoundFile:
    if path is not None:
        return soundfile.SoundFile(os.fsencode(path))
    file: BinaryIO = BytesIO(store.read(index).data) if whole else store.open(index)
    return soundfile.SoundFile(file)


def _reason(error: Exception, path: Path | None = None) -> str:
    if path is not None:
        try:
            with path.open("rb") as file:
                if not file.read(1):
                    return "is empty"
        except FileNotFoundError:
            return "is gone"
        except OSError as why:
            return why.strerror or str(why)
    return getattr(error, "error_string", None) or str(error)
