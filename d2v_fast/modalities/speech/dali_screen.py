"""Which clips DALI may decode: those it is known to make the same of as the native engine.

Everything else - other formats, odd sizes, files that are cut off - is read by the native engine's code, which also
finds the words for what is wrong. What is wrong and is let through either kills DALI's pipeline, which costs time and
nothing else, or is something that the decoders of both engines pass over alike.
"""

from __future__ import annotations

import struct

_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


def is_plain_clip(data: bytes, samples: int, rate: int) -> bool:
    """Whether these are the bytes of a whole WAV or FLAC file of integers with this length, at this rate in Hz."""
    if data.startswith(b"fLaC"):
        return _flac_length(data) == (samples, rate)
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE" and _wav_length(data) == (samples, rate)


def _flac_length(data: bytes) -> tuple[int, int] | None:
    """Samples and rate, from the STREAMINFO block, which is always the first."""
    if len(data) < 42 or data[4] & 0x7F:
        return None
    packed = int.from_bytes(data[18:26], "big")  # 20 bits rate, 3 channels, 5 bits per sample, 36 samples
    return packed & ((1 << 36) - 1), packed >> 44


def _wav_length(data: bytes) -> tuple[int, int] | None:
    """Samples and rate, if the format is PCM and all samples are there."""
    at, rate, block = 12, 0, 0
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        if kind == b"data":
            whole = block > 0 and length % block == 0 and at + 8 + length <= len(data)
            return (length // block, rate) if whole else None
        if kind == b"fmt " and length >= 16 and at + 24 <= len(data):
            code, _, rate, _, block, _ = struct.unpack_from("<HHIIHH", data, at + 8)
            if code != _PCM and not (code == _EXTENSIBLE and data[at + 32 : at + 48] == _PCM_GUID):
                return None
        at += 8 + length + length % 2
    return None
