"""Stretches of long clips of sound: only what is needed is read, at any rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO

import numpy as np
import soundfile
import soxr

from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError
from d2v_fast.modalities.speech import sound

_MARGIN = 0.25
"""Seconds beside a stretch that are resampled with it: more than soxr's filter reaches."""


def load(store: Store, index: int, length: tuple[int, int], start: int, count: int) -> np.ndarray | None:
    """The frames [start, start + count) of a clip: [count, channels], int16, or float32 in [-1, 1].

    Args:
        store: Where the file is.
        index: Its number.
        length: (frames, rate in Hz) that it had when it was indexed.
        start: First frame.
        count: Frames.

    Returns:
        None where the format cannot be read so: MP3, GSM, what torchcodec decodes, and files that are no local ones.

    Raises:
        SampleError: The file is gone, cut off, damaged, or no longer of this length.
    """
    label, path, span = store.label(index), store.path(index), store.span(index)
    if sound.by_torchcodec(store.extension(index)):
        return None
    try:
        opened = None if path is not None else store.open(index)
        if isinstance(opened, BytesIO):  # from afar or out of a table: all of it would come again for each stretch
            return None
        with sound.open_file(store, index, path) as file:
            if file.format == sound.MP3 or not file.seekable():
                return None
            begin, frames = 0, file.frames
            if span is not None:
                begin, frames = sound.part_of(span, frames, file.samplerate, label)
            sound.check_length((frames, file.samplerate), length, label)
            file.seek(begin + start)
            dtype = "int16" if file.subtype == "PCM_16" else "float32"
            found: np.ndarray = file.read(count, dtype=dtype, always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise SampleError(label, sound.reason_of(error, path)) from error
    if len(found) != count:
        raise SampleError(label, f"is cut off: {len(found)} of {count} frames are there from {start} on")
    return found


def resampled(
    read: Callable[[int, int], np.ndarray | None], frames: int, rate: int, target: int, start: int, count: int
) -> np.ndarray | None:
    """The samples [start, start + count) of a clip at another rate, as if all of it had been resampled.

    Args:
        read: (first frame, frames) -> floating point [frames] or [frames, channels] at the clip's own rate, or None.
        frames: Of the clip.
        rate: Its rate in Hz.
        target: The wanted rate in Hz.
        start: First sample at the wanted rate.
        count: Samples.
    """
    if rate == target:
        return read(start, count)
    common = math.gcd(rate, target)
    made, taken = target // common, rate // common  # so many samples are made of so many frames, from a common moment
    margin = math.ceil(_MARGIN * rate / taken)
    first = max(0, start // made - margin)
    end = min(frames, (-(-(start + count) // made) + margin) * taken)
    raw = read(first * taken, end - first * taken)
    if raw is None:
        return None
    offset = start - first * made
    found: np.ndarray = soxr.resample(raw, rate, target)[offset : offset + count]
    return found
