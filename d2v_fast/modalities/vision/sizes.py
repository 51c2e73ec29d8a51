"""The size of a picture, from the header of its file alone."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from PIL import Image

from d2v_fast.data.own import is_own_picture
from d2v_fast.data.store import Store, check_bytes
from d2v_fast.errors import OwnFile, SampleError, reading

PILLOW = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The formats of pictures as Pillow calls them: no other of its many readers is let near a file."""

_MAX_PIXELS = 2 * 89_478_485
"""Larger pictures are refused, as Pillow refuses them: a small file can ask for all memory there is."""

JPEG = b"\xff\xd8"
"""Its first bytes."""

_PNG = b"\x89PNG\r\n\x1a\n"
_LAZY = (b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""Beginnings of GIF, BMP and TIFF, of which Pillow reads no more than the header to say their size."""

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def read_size(store: Store, index: int) -> tuple[int, int]:
    """(height, width) in pixels from the header of a file, whose format is told by its content, not by its name.

    Raises:
        SampleError: Not such a file, or one that is cut off or too large.
        OwnFile: `data show` has drawn it.
    """
    label = store.label(index)
    with reading(label), store.open(index) as file:
        check_bytes(file.seek(0, os.SEEK_END), label)
        file.seek(0)
        if is_own_picture(label, file):
            raise OwnFile(label, "was drawn by d2v-fast data show")
        file.seek(0)
        return header_size(file, label)


def header_size(file: BinaryIO, label: str) -> tuple[int, int]:
    """(height, width) in pixels from the first bytes of a file.

    Args:
        file: At its beginning.
        label: For the message.

    Raises:
        SampleError: See `read_size`.
    """
    try:
        size = _size(file)
    except ValueError as error:
        raise SampleError(label, str(error)) from error
    if 0 in size or size[0] * size[1] > _MAX_PIXELS:
        raise SampleError(label, f"claims to be {size[0]}x{size[1]} pixels (at most {_MAX_PIXELS} are read)")
    return size


def _size(file: BinaryIO) -> tuple[int, int]:
    head = file.read(24)
    if not head:
        raise ValueError("is empty")
    if head.startswith(_PNG) and head[12:16] == b"IHDR" and len(head) == 24:
        width, height = struct.unpack(">II", head[16:])
        return height, width
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp_size(head + file.read(6))
    if head.startswith(_LAZY):
        file.seek(0)
        try:
            with Image.open(file, formats=PILLOW) as image:
                return image.height, image.width
        except Exception as error:  # Pillow's readers raise many kinds
            raise ValueError("is damaged: its header cannot be read") from error
    if not head.startswith(JPEG):
        raise ValueError("is neither JPEG nor PNG, WebP, BMP, TIFF or GIF")
    file.seek(2)
    while True:  # markers: FF, a code, a length that counts itself; the frame header holds the size
        if _take(file, 1) != b"\xff":
            continue
        while (code := _take(file, 1)[0]) == 0xFF:
            pass
        if code in (0x00, 0x01) or 0xD0 <= code <= 0xD8:  # stuffing, restart markers: no length follows
            continue
        (length,) = struct.unpack(">H", _take(file, 2))
        if code in _START_OF_FRAME:
            height, width = struct.unpack(">xHH", _take(file, 5))
            return height, width
        file.seek(max(length - 2, 0), os.SEEK_CUR)


def _webp_size(head: bytes) -> tuple[int, int]:
    """From the first chunk (RFC 9649); Pillow would read the whole file to say it."""
    chunk = head[12:16]
    if len(head) < 30:
        raise ValueError("is a WebP that ends before its size")
    if chunk == b"VP8X":  # extended: 24 bits each, less 1
        return int.from_bytes(head[27:30], "little") + 1, int.from_bytes(head[24:27], "little") + 1
    if chunk == b"VP8L":  # lossless: 14 bits each, less 1
        bits = int.from_bytes(head[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8 ":  # lossy: 14 bits each
        width, height = struct.unpack("<HH", head[26:30])
        return height & 0x3FFF, width & 0x3FFF
    raise ValueError("is a WebP without a picture")


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("is a JPEG that ends before its size")
    return data
