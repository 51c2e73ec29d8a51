"""Pictures, from a folder, a manifest, archives or a table."""

from __future__ import annotations

import os
import struct
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Collection, Index, open_index
from d2v_fast.data.own import is_own_picture
from d2v_fast.data.store import Store, check_bytes
from d2v_fast.errors import OwnFile, SampleError, reading
from d2v_fast.modalities.vision.alpha import over
from d2v_fast.modalities.vision.config import VisionInputs

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"
_PILLOW = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The same, as Pillow calls them: no other of its many readers is let near a file."""

_OTHERS = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".psd", ".svg")
REMEDIES = {e: f"Convert them first, for example: mogrify -format png *{e}" for e in _OTHERS}
_MAX_PIXELS = 2 * 89_478_485
"""Larger pictures are refused, as Pillow refuses them: a small file can ask for all memory there is."""

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_LAZY = (b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""Beginnings of GIF, BMP and TIFF, of which Pillow reads no more than the header to say their size."""

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def kind() -> Kind:
    """Pictures as the formats see them."""
    return Kind(
        "vision",
        EXTENSIONS,
        REMEDIES,
        FORMATS,
        ("height", "width"),
        header=read_size,
        decode=check_decoded,
        amount=lambda sizes: f"{sizes.prod(axis=1).sum() / 1e6:,.1f} million pixels",
        feature="Image",
    )


class Pictures:
    """Pictures by number; made by `open_images`.

    Args:
        store: The files.
        index: Their sizes.
        channels: Of the model's input: 1 for grey.
        background: What transparent pictures are laid on, see `VisionInputs.background`.
    """

    modality = "vision"

    def __init__(self, store: Store, index: Index, channels: int, background: float | None) -> None:
        self._store = store
        self._index = index
        self._grey = channels == 1
        self._background = background
        self.sizes = index.sizes
        self.fingerprint = index.fingerprint

    def __len__(self) -> int:
        return len(self._index.names)

    def name(self, index: int) -> str:
        """The file's path below the folder."""
        return self._index.names[index]

    def read(self, index: int) -> Tensor:
        """Decodes a picture: uint8 [channels, height, width].

        Palettes, CMYK and 16-bit pictures are converted, transparent ones laid on the background, of an animation the
        first frame is taken; the orientation that a camera notes in EXIF is not applied (nor was it for the published
        models).

        Raises:
            SampleError: The file is gone, truncated, damaged, or no longer of the size in the index.
        """
        self._refuse_known(index)
        return load(self._store, index, self._size(index), grey=self._grey, background=self._background)

    def encoded(self, index: int) -> bytes:
        """The picture's file as it is.

        Raises:
            SampleError: It is gone, or its header is not that of the picture in the index.
        """
        self._refuse_known(index)
        data = self._store.read(index).tobytes()
        label = self._store.label(index)
        _check_size(_header_size(BytesIO(data), label), self._size(index), label)
        return data

    def label(self, index: int) -> str:
        """What messages call the picture: its path, where there is one."""
        return self._store.label(index)

    def _refuse_known(self, index: int) -> None:
        if index in self._index.problems:
            raise SampleError(self._store.label(index), self._index.problems[index])

    def _size(self, index: int) -> tuple[int, int]:
        height, width = self.sizes[index].tolist()
        return height, width


def load(store: Store, index: int, size: tuple[int, int], *, grey: bool, background: float | None) -> Tensor:
    """Reads and decodes a picture: uint8 [channels, height, width].

    Raises:
        SampleError: The file is gone, truncated, damaged, or not of this size.
    """
    label = store.label(index)
    with reading(label):
        data = store.read(index)
        _check_size(_header_size(BytesIO(data.data), label), size, label)  # a bomb is refused before it goes off
        try:
            image = decode(data, grey=grey, background=background)
        except RecursionError:  # a RuntimeError, but none of torchvision's
            raise
        except (OSError, RuntimeError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            raise SampleError(label, _reason(error)) from error
        _check_size(tuple(image.shape[-2:]), size, label)
        return image


def check_decoded(store: Store, index: int, size: tuple[int, ...]) -> None:
    """Decodes a picture as `data build --deep` does.

    Raises:
        SampleError: See `load`.
    """
    load(store, index, (size[0], size[1]), grey=False, background=None)


def _check_size(found: tuple[int, ...], expected: tuple[int, int], label: str) -> None:
    if found != expected:
        was = "x".join(map(str, expected))
        raise SampleError(label, f"is {found[0]}x{found[1]}, but was {was} when the data was indexed")


@cache
def jpeg_decoder() -> Any:
    """Torchvision's decoder of (bytes, channels, whether to turn by EXIF); None: Pillow does it.

    It is imported when the first JPEG comes: that takes longer than all other imports together.
    """
    try:
        import torchvision.io  # noqa: F401  (registers the operator)

        # The operator itself: torchvision's function (0.29) warns at each call that it will move, which is an error
        # where warnings are errors.
        return torch.ops.image.decode_jpeg
    except (ImportError, AttributeError):  # Pillow gives the same (grey: +-2) and takes a third longer
        return None


def decode(data: np.ndarray, *, grey: bool, background: float | None) -> Tensor:
    """A file's bytes, uint8 [N], to a picture, uint8 [1 or 3, height, width].

    Args:
        data: JPEG, PNG, WebP, BMP, TIFF or GIF.
        grey: Whether one channel is wanted.
        background: Grey value in [0, 1] behind what is transparent; None drops the alpha channel.

    Raises:
        ValueError: Values of 32 bits, of which nobody knows which one is white. Pillow and torchvision raise more.
    """
    if data[:2].tobytes() == _JPEG and (decoder := jpeg_decoder()) is not None:
        picture: Tensor = decoder(torch.from_numpy(data), 1 if grey else 3, False)  # channels; no EXIF rotation
        return picture
    # PNG never by torchvision: its decoder (0.29) takes the whole process down on some damaged files
    with Image.open(BytesIO(data.data), formats=_PILLOW) as image:
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise ValueError("it has values of 32 bits: convert it to 8 or 16 bits")
        if image.mode.startswith("I"):  # 16-bit grey: the high byte, which is also what becomes of 16-bit colours
            high = (np.asarray(image).astype(np.int32) >> 8).astype(np.uint8)
            planes = high if grey else np.stack([high] * 3, axis=-1)
        else:
            shown: Image.Image = image
            if background is not None and image.has_transparency_data:
                flat = over(_channels_first(np.array(image.convert("RGBA"))), background)
                shown = Image.fromarray(flat.permute(1, 2, 0).contiguous().numpy())
            planes = np.array(shown.convert("L" if grey else "RGB"))
    return _channels_first(planes)


def _channels_first(planes: np.ndarray) -> Tensor:
    return torch.from_numpy(planes).reshape(*planes.shape[:2], -1).permute(2, 0, 1)


def open_images(found: Collection, inputs: VisionInputs, *, run: Path | None, threads: int) -> Pictures:
    """Indexes pictures; see `open_source`."""
    index, store = open_index(found, "vision", read_size, run=run, threads=threads)
    return Pictures(store, index, len(inputs.mean), inputs.background)


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
        return _header_size(file, label)


def _header_size(file: BinaryIO, label: str) -> tuple[int, int]:
    try:
        size = _size(file)
    except ValueError as error:
        raise SampleError(label, str(error)) from error
    if 0 in size or size[0] * size[1] > _MAX_PIXELS:
        raise SampleError(label, f"claims to be {size[0]}x{size[1]} pixels (at most {_MAX_PIXELS} are read)")
    return size


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # torchvision says "decode_jpeg, decode_jpeg.cpp:171, what is wrong"
    return f"cannot be decoded: {str(error).splitlines()[0].split(', ')[-1]}"


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
            with Image.open(file, formats=_PILLOW) as image:
                return image.height, image.width
        except Exception as error:  # Pillow's readers raise many kinds
            raise ValueError("is damaged: its header cannot be read") from error
    if not head.startswith(_JPEG):
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
