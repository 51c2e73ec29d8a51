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
    except (RuntimeError, OSError):  # its own message goes on for pages
        return "torchcodec is installed but cannot be loaded"
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1600), 16000, format="WAV")
    try:
        AudioDecoder(silence.getvalue()).get_all_samples()
    except (RuntimeError, OSError):
        return "torchcodec is installed but finds no FFmpeg libraries"
    return None


def remedy(extension: str) -> str:
    """What to do about files that cannot be read."""
    return (
        f"Convert them to FLAC first, for example: for f in *{extension}; do ffmpeg -i $f ${{f%{extension}}}.flac; "
        f"done; or read them as they are: pip install torchcodec and FFmpeg's libraries ({missing()})"
    )


def decode(source: Path | bytes, label: str) -> tuple[np.ndarray, int]:
    """(float32 [frames, channels] in [-1, 1], sample rate in Hz).

    Raises:
        SampleError: FFmpeg cannot read it.
    """
    from torchcodec.decoders import AudioDecoder

    try:
        found: Any = AudioDecoder(source if isinstance(source, bytes) else str(source)).get_all_samples()
    except (RuntimeError, ValueError, OSError) as error:
        raise SampleError(
            label, f"cannot be decoded: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    return found.data.numpy().T, int(found.sample_rate)
