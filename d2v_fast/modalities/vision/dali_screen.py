"""Which pictures DALI may decode: those it is known to make the same of as the native engine.

Everything else - other formats, odd sizes, files that are cut off - is read by the native engine's code, which also
finds the words for what is wrong. What is wrong and is let through either kills DALI's pipeline, which costs time and
nothing else, or is something that the decoders of both engines pass over alike.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_ALPHA = 0, (4, 6)
"""Colour types of a PNG: grey, and those with alpha."""

_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive Huffman coding."""

_SCAN, _END, _RESTARTS = 0xDA, 0xD9, 0xD0
_SEGMENTS = frozenset({*_START_OF_FRAME, 0xC4, _SCAN, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Frames, tables, scans, applications' data, comments: what a JPEG is made of."""


def is_plain_picture(data: bytes, height: int, width: int, *, grey: bool) -> bool:
    """Whether these are the bytes of a whole JPEG or PNG file of this size, in one of the usual forms.

    Args:
        data: The file.
        height: In pixels.
        width: In pixels.
        grey: It is to become grey; the grey of a PNG's colours is not rounded alike everywhere.
    """
    if data.startswith(_JPEG):
        return _is_whole_jpeg(data, height, width)
    if not data.startswith(_PNG) or data[12:16] != b"IHDR" or len(data) < 33:
        return False
    *size, bits, colours = struct.unpack_from(">IIBB", data, 16)
    # what is transparent is laid on a background by the native code; DALI would drop alpha
    transparent = colours in _PNG_ALPHA or b"tRNS" in data[33 : data.find(b"IDAT")]
    usual = bits <= 8 and not transparent and (colours == _PNG_GREY or not grey)
    return usual and size == [width, height] and _is_whole_png(data)


def _is_whole_jpeg(data: bytes, height: int, width: int) -> bool:
    """Whether the segments follow each other to the end, with 8 bits and one or three colours.

    DALI decodes no further than the crop needs, so it would not see what is wrong below.
    """
    content = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(content[:-1] == 0xFF)
    codes = content[places + 1]
    marks = (codes != 0) & (codes != 0xFF)  # within a scan, FF 00 is a byte of its own, FF FF a filling
    places, codes = places[marks], codes[marks]
    at, size = 2, None
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] in _SEGMENTS:
        code, behind = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if code in _START_OF_FRAME and at + 10 <= len(data):
            bits, *size, colours = struct.unpack_from(">BHHB", data, at + 4)
            if bits != 8 or colours not in (1, 3):
                return False
        if code == _SCAN:  # goes on to the next mark that is no restart; restarts are counted from 0 to 7
            first = int(np.searchsorted(places, behind))
            restarts = (codes[first:] & 0xF8) == _RESTARTS
            count = int(np.argmin(restarts)) if not restarts.all() else -1
            if count < 0 or ((codes[first : first + count] - np.arange(count)) & 7).any():
                return False
            behind = int(places[first + count])
        at = behind
    return size == [height, width] and data[at : at + 2] == bytes([0xFF, _END])


def _is_whole_png(data: bytes) -> bool:
    """Whether all chunks are there with right checksums; Pillow reads them, DALI does not always."""
    at, kind = len(_PNG), b""
    while at + 12 <= len(data) and kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return kind == b"IEND"
