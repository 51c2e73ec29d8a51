"""Files of sound: WAV, FLAC, OGG and what else libsndfile reads, and what torchcodec adds."""

from __future__ import annotations

import math
import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError
from d2v_fast.modalities.speech import compressed
from d2v_fast.modalities.speech.transforms import LOUDEST

FORMATS = "WAV, FLAC or OGG"
_NATIVE = (".wav", ".flac", ".ogg", ".oga", ".opus")
_BY_FORMAT = {
    ".mp3": "MP3",
    ".aiff": "AIFF",
    ".aif": "AIFF",
    ".aifc": "AIFF",
    ".au": "AU",
    ".snd": "AU",
    ".caf": "CAF",
    ".w64": "W64",
    ".rf64": "RF64",
    ".sph": "NIST",
    ".nist": "NIST",
}
"""Endings of what some versions of libsndfile read, with its name for the format."""

_OTHERS = (*compressed.EXTENSIONS, *_BY_FORMAT, ".amr", ".ape", ".wv", ".3gp")
_ENDLESS = 1 << 40
"""A file that claims more frames has an unknown length (a stream that was never finished)."""

MP3 = "MP3"

LOWEST_RATE = 100
"""Hz. No sound is recorded at less; resampled to 16,000 Hz, a file of a few kB that says 1 Hz would fill gigabytes."""

MAX_SAMPLES = 1 << 28
"""Longer clips are refused: a clip is normalised as a whole, so it must fit into memory."""


def extensions() -> tuple[str, ...]:
    """Those of the files that can be read here."""
    known = soundfile.available_formats()
    native = (*_NATIVE, *(ending for ending, name in _BY_FORMAT.items() if name in known))
    if compressed.missing() is not None:
        return native
    return native + tuple(ending for ending in compressed.EXTENSIONS if ending not in native)


def remedies() -> dict[str, str]:
    """What to do about the files that cannot be read here, by extension."""
    return {e: compressed.remedy(e) for e in _OTHERS if e not in extensions()}


def load(store: Store, index: int, length: tuple[int, int]) -> np.ndarray:
    """Reads and decodes a clip: [frames, channels], int16, or float32 in [-1, 1].

    Raises:
        SampleError: The file is gone, truncated, damaged, or not of this length (frames, rate in Hz).
    """
    label, path, span = store.label(index), store.path(index), store.span(index)
    if by_torchcodec(store.extension(index)):
        raw, rate = compressed.decode(store.read(index).tobytes() if path is None else path, label, MAX_SAMPLES)
        if span is not None:
            start, frames = part_of(span, len(raw), rate, label)
            raw = raw[start : start + frames]
    else:
        try:
            with open_file(store, index, path, whole=True) as file:
                rate = file.samplerate
                start, frames = 0, file.frames
                if span is not None:
                    start, frames = part_of(span, frames, rate, label)
                if file.format == MP3:  # may say less or more than it has
                    frames = length[0]
                check_length((frames, rate), length, label)  # before memory is taken for it
                if file.format == MP3:  # would be sought to about the place only: what lies before is read with it
                    _check_most((start + frames) * file.channels, (start + frames) / rate, label)
                elif start:
                    _skip(file, start)
                    start = 0
                # reading PCM16 as int16 skips libsndfile's slow conversion; dividing later gives the same bits
                dtype = "int16" if file.subtype == "PCM_16" else "float32"
                # the number of frames is given: without it a format that cannot seek (GSM 6.10) is refused
                raw = file.read(start + frames, dtype=dtype, always_2d=True)[start:]
        except (soundfile.SoundFileError, OSError) as error:
            raise SampleError(label, reason_of(error, path)) from error
    check_length((len(raw), rate), length, label)
    return raw


def check_decoded(store: Store, index: int, length: tuple[int, ...]) -> None:
    """Decodes a clip as `data build --deep` does.

    Raises:
        SampleError: It cannot be used: see `load`; or its samples, or their squares, are not finite numbers.
    """
    raw = load(store, index, (length[0], length[1]))
    if raw.dtype == np.int16:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        peak = float(np.abs(raw.mean(axis=1, dtype=np.float32)).max())
        if not math.isfinite(peak):
            raise SampleError(store.label(index), "has samples that are not finite numbers")
        if peak > LOUDEST:
            raise SampleError(store.label(index), "has samples too large to be normalised")


def _skip(file: soundfile.SoundFile, count: int) -> None:
    """Goes to a frame; what cannot seek (GSM 6.10) is read up to it."""
    if file.seekable():
        file.seek(count)
        return
    piece = np.empty((1 << 16, file.channels), dtype=np.float32)
    while count and (got := len(file.read(out=piece[: min(count, len(piece))]))):
        count -= got


def part_of(span: tuple[float, float], frames: int, rate: int, label: str) -> tuple[int, int]:
    """First frame and frames of a part of a file, which ends with the file at the latest.

    Raises:
        SampleError: It begins behind the end.
    """
    start = round(span[0] * rate)
    if start >= frames:
        raise SampleError(label, f"begins at {span[0]:g} s, but the file ends at {frames / max(1, rate):g} s")
    left = frames - start
    return start, left if span[1] != span[1] else min(max(1, round(span[1] * rate)), left)


def check_length(found: tuple[int, int], expected: tuple[int, int], label: str) -> None:
    """Compares (frames, rate in Hz) of a file with what it had when it was indexed.

    Raises:
        SampleError: It is another file now.
    """
    if found != expected:
        was = f"{expected[0]} frames at {expected[1]} Hz when the data was indexed"
        raise SampleError(label, f"gives {found[0]} frames at {found[1]} Hz, but had {was}")


def read_length(store: Store, index: int) -> tuple[int, int]:
    """(frames, sample rate in Hz) from the header of an audio file; see `read_header`.

    Raises:
        SampleError: Also for a rate at which no sound is recorded.
    """
    frames, rate, _ = read_header(store, index)
    if rate < LOWEST_RATE:
        raise SampleError(store.label(index), too_slow(rate))
    return frames, rate


def too_slow(rate: int) -> str:
    """Why a file of this rate is not read."""
    return f"says {rate} Hz (at least {LOWEST_RATE} are read): its header is damaged"


def read_header(store: Store, index: int) -> tuple[int, int, int]:
    """(frames, sample rate in Hz, channels) from the header of an audio file; what needs torchcodec is decoded.

    Raises:
        SampleError: The header cannot be read, there is no sound, or more than fits into memory.
    """
    label, path, span = store.label(index), store.path(index), store.span(index)
    if by_torchcodec(store.extension(index)):
        raw, rate = compressed.decode(store.read(index).tobytes() if path is None else path, label, MAX_SAMPLES)
        frames, channels = raw.shape
    else:
        try:
            frames, rate, channels = plain_wav(store, index) or _by_libsndfile(store, index, path)
        except (soundfile.SoundFileError, OSError) as error:
            raise SampleError(label, reason_of(error, path)) from error
    if frames <= 0 or rate <= 0:
        raise SampleError(label, "has no samples")
    if frames > _ENDLESS:
        raise SampleError(label, "does not say how long it is: encode it again")
    if span is not None:
        frames = part_of(span, frames, rate, label)[1]
    _check_most(frames * channels, frames / rate, label)
    return frames, rate, channels


def _by_libsndfile(store: Store, index: int, path: Path | None) -> tuple[int, int, int]:
    with open_file(store, index, path) as file:
        frames = _mp3_frames(store, index, file) if file.format == MP3 else file.frames
        return frames, file.samplerate, file.channels


_WAV = struct.Struct("<4sI4s4sIHHIIHH4sI")
"""The header of most WAV files: RIFF, WAVE, a format of 16 bytes, and the samples up to the end of the file."""


def plain_wav(store: Store, index: int) -> tuple[int, int, int] | None:
    """(frames, sample rate in Hz, channels) of a WAV that says so in the plainest way, as libsndfile finds them.

    That takes a third of libsndfile's time, which is all there is to an index of short clips.

    Returns:
        None for every other file, sound or damaged: libsndfile looks at it.

    Raises:
        OSError: It cannot be read.
    """
    if store.extension(index) != ".wav":
        return None
    with store.open(index) as file:
        head, there = file.read(_WAV.size), file.seek(0, os.SEEK_END)
    if len(head) < _WAV.size:
        return None
    riff, size, wave, form, length, code, channels, rate, per_second, frame, bits, data, samples = _WAV.unpack(head)
    names = (riff, wave, form, data) == (b"RIFF", b"WAVE", b"fmt ", b"data")
    whole = size + 8 == there == samples + _WAV.size and length == 16
    plain = code == 1 and bits == 16 and 0 < channels <= 8 and frame == 2 * channels and per_second == rate * frame
    if not (names and whole and plain) or samples == 0 or samples % frame or rate == 0:
        return None
    return samples // frame, rate, channels


def _check_most(samples: int, seconds: float, label: str) -> None:
    if samples > MAX_SAMPLES:
        raise SampleError(label, f"has {samples} samples, {seconds / 3600:.1f} h (at most {MAX_SAMPLES}): cut it")


def by_torchcodec(extension: str) -> bool:
    """Whether files with this ending are decoded by torchcodec, not by libsndfile."""
    return extension in compressed.EXTENSIONS and not (extension == ".mp3" and MP3 in soundfile.available_formats())


def open_file(store: Store, index: int, path: Path | None, whole: bool = False) -> soundfile.SoundFile:
    """Opens a clip, to look at it or to read the whole of it."""
    if path is not None:
        file = soundfile.SoundFile(os.fsencode(path))
    else:
        file = soundfile.SoundFile(BytesIO(store.read(index).data) if whole else store.open(index))
    if whole and file.format == MP3 and not _has_index(BytesIO(data := store.read(index).data)):
        file.close()
        return soundfile.SoundFile(_Longer(data))
    return file


def _mp3_frames(store: Store, index: int, file: soundfile.SoundFile) -> int:
    """Frames of an MP3: what its index says; if it has none, it is decoded and counted.

    Without an index libsndfile estimates the frames from the size of the file, and reads no more than that. So the file
    is made to look longer, and read until nothing comes.
    """
    with store.open(index) as raw:
        if _has_index(raw):
            return int(file.frames)
    with soundfile.SoundFile(_Longer(store.read(index).data)) as longer:
        count, piece = 0, np.empty((1 << 16, longer.channels), dtype=np.float32)
        while (got := len(longer.read(out=piece))) and count * longer.channels <= MAX_SAMPLES:
            count += got
        return count


def _has_index(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3 says how many there are (Xing, LAME, Fraunhofer)."""
    head = file.read(10)
    size = 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:])) if head.startswith(b"ID3") else 0
    file.seek(size)
    first = file.read(_FIRST_FRAME)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


_FIRST_FRAME = 2048
"""Bytes in which the first frame of an MP3 lies."""


class _Longer(BytesIO):
    """A file that claims to be much longer than it is. Its last bytes, where a tag might be, are zeros."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self._claimed = len(data) * _TIMES

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self._claimed + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        at = self.tell()
        if at < self._claimed - _TAG:
            return super().readinto(buffer)
        count = min(len(buffer), self._claimed - at)
        buffer[:count] = bytes(count)
        return super().seek(at + count) - at


_TAG = 128
"""Bytes of an ID3v1 tag, which is looked for at the end of a file."""

_TIMES = 64
"""How much: the highest bitrate of an MP3 is 40 times the lowest."""


def reason_of(error: Exception, path: Path | None = None) -> str:
    """What is wrong with a file that libsndfile could not read."""
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
