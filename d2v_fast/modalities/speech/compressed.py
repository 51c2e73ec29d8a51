"""MP3, M4A and other compressed sound that libsndfile does not read, through torchcodec where it is installed."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from d2v_fast.errors import SampleError

EXTENSIONS = (".mp3", ".m4a", ".aac", ".mp4", ".wma", ".webm")


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why torchcodec cannot be used; None if it can. It looks for FFmpeg's libraries only when it has to decode."""
    try:
        from torchcodec.decoders import AudioDecoder
    except ImportError:
        return "torchcodec is not installed"
    except Exception:  # its own message goes on for pages
        return "torchcodec is installed but cannot be loaded"
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1600), 16000, format="WAV")
    try:
        AudioDecoder(silence.getvalue()).get_all_samples()
    except Exception:  # of the same kind
        return "torchcodec is installed but finds no FFmpeg libraries"
    return None


def remedy(extension: str) -> str:
    """What to do about files that cannot be read."""
    convert = (
        f"Convert them to FLAC first, for example: for f in *{extension}; do ffmpeg -i $f ${{f%{extension}}}.flac; done"
    )
    if extension not in EXTENSIONS or (why := missing()) is None:
        return convert
    return f"{convert}; or read them as they are: pip install torchcodec and FFmpeg's libraries ({why})"


def decode(source: Path | bytes, label: str, most: int) -> tuple[np.ndarray, int]:
    """(float32 [frames, channels] in [-1, 1], sample rate in Hz).

    Args:
        source: The file, or its bytes.
        label: For messages.
        most: Samples of all channels together; no more than a second beyond that is decoded.

    Raises:
        SampleError: FFmpeg cannot read it, or it has more samples.
    """
    from torchcodec.decoders import AudioDecoder

    try:
        decoder: Any = AudioDecoder(source if isinstance(source, bytes) else str(source))
        rate, channels = int(decoder.metadata.sample_rate), int(decoder.metadata.num_channels or 1)
        seconds = most / (max(1, rate) * max(1, channels))
        if (decoder.metadata.duration_seconds_from_header or 0) > seconds + 1:  # no need to begin
            raise SampleError(label, f"is longer than {seconds / 3600:.1f} h: cut it")
        found = decoder.get_samples_played_in_range(stop_seconds=seconds + 1)
        samples = found.data.numpy().T
    except SampleError:
        raise
    except Exception as error:  # FFmpeg's and torchcodec's errors are of many kinds
        what = next(iter(str(error).splitlines()), "")
        raise SampleError(
            label, f"cannot be decoded: {type(error).__name__}" + (f": {what}" if what else "")
        ) from error
    if samples.size > most:
        raise SampleError(label, f"is longer than {seconds / 3600:.1f} h: cut it")
    return samples, int(found.sample_rate)
