"""A folder of audio files: WAV, FLAC, OGG, and MP3 where libsndfile can."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from d2v_fast.data.config import SpeechInputs
from d2v_fast.data.errors import SampleError
from d2v_fast.data.index import Index, check_formats, list_files, open_index

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus")
_REMEDY = "Convert them to FLAC first, for example: for f in *{0}; do ffmpeg -i $f ${{f%{0}}}.flac; done"
_REMEDIES = {e: _REMEDY.format(e) for e in (".mp3", ".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".aiff", ".ape")}
_MAX_FRAMES = 1 << 40
"""A file that claims more has an unknown length (a stream that was never finished)."""


def resampled_length(frames: np.ndarray | int, rate: np.ndarray | int, target: int) -> np.ndarray:
    """Samples that `frames` at `rate` Hz become at `target` Hz, rounded down; int64."""
    return np.asarray(frames, dtype=np.int64) * target // np.maximum(rate, 1)


class AudioFolder:
    """Clips by number; made by `open_audio`."""

    modality = "speech"

    def __init__(self, root: Path, index: Index, sample_rate: int) -> None:
        self._root = root
        self._index = index
        self._rate = sample_rate
        self.sizes = resampled_length(index.sizes[:, 0], index.sizes[:, 1], sample_rate)
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
        path = self._root / self._index.names[index]
        if index in self._index.problems:
            raise SampleError(str(path), self._index.problems[index])
        frames, rate = self._index.sizes[index].tolist()
        try:
            with soundfile.SoundFile(os.fsencode(path)) as file:
                # reading PCM16 as int16 skips libsndfile's slow conversion; dividing later gives the same bits
                small = file.subtype == "PCM_16"
                raw = file.read(dtype="int16" if small else "float32", always_2d=True)
                found = (len(raw), file.samplerate)
        except (soundfile.SoundFileError, OSError) as error:
            raise SampleError(str(path), _reason(path, error)) from error
        if found != (frames, rate):
            was = f"{frames} frames at {rate} Hz when the data was indexed"
            raise SampleError(str(path), f"gives {found[0]} frames at {found[1]} Hz, but had {was}")
        if raw.shape[1] == 1 and rate == self._rate:
            return raw[:, 0]
        clip = raw[:, 0].astype(np.float32) if raw.shape[1] == 1 else raw.mean(axis=1, dtype=np.float32)
        if small:
            clip /= 32768
        return clip if rate == self._rate else soxr.resample(clip, rate, self._rate)[: self.sizes[index]]


def open_audio(root: Path, inputs: SpeechInputs, *, run: Path | None, threads: int) -> AudioFolder:
    """Indexes a folder of audio files; see `open_source`."""
    decoded = (*EXTENSIONS, ".mp3") if "MP3" in soundfile.available_formats() else EXTENSIONS
    listing = list_files(root, decoded, run)
    check_formats(root, listing, _REMEDIES, "WAV, FLAC or OGG")
    index = open_index(root, "speech", listing, lambda name: read_length(root / name), run=run, threads=threads)
    return AudioFolder(root, index, inputs.sample_rate)


def read_length(path: Path) -> tuple[int, int]:
    """(frames, sample rate in Hz) from the header of an audio file.

    Raises:
        SampleError: The header cannot be read, or there is no sound.
    """
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            frames, rate = file.frames, file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise SampleError(str(path), _reason(path, error)) from error
    if frames <= 0 or rate <= 0:
        raise SampleError(str(path), "has no samples")
    if frames > _MAX_FRAMES:
        raise SampleError(str(path), "does not say how long it is: encode it again")
    return frames, rate


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "is gone"
    if path.stat().st_size == 0:
        return "is empty"
    return getattr(error, "error_string", None) or str(error)
