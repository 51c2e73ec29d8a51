"""Pictures, from a folder, a manifest, archives or a table."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2v_fast.data.collection import Collection
from d2v_fast.data.formats.kinds import Kind
from d2v_fast.data.index import Index
from d2v_fast.data.opening import open_index
from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError, reading
from d2v_fast.modalities.vision.alpha import over
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sizes import JPEG, PILLOW, header_size, read_size

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

_OTHERS = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".psd", ".svg")
REMEDIES = {e: f"Convert them first, for example: mogrify -format png *{e}" for e in _OTHERS}


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

    folder: Path | None = None
    """Where the index is, if it is kept."""

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
        _check_size(header_size(BytesIO(data), label), self._size(index), label)
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
        _check_size(header_size(BytesIO(data.data), label), size, label)  # a bomb is refused before it goes off
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
    if data[:2].tobytes() == JPEG and (decoder := jpeg_decoder()) is not None:
        picture: Tensor = decoder(torch.from_numpy(data), 1 if grey else 3, False)  # channels; no EXIF rotation
        return picture
    # PNG never by torchvision: its decoder (0.29) takes the whole process down on some damaged files
    with Image.open(BytesIO(data.data), formats=PILLOW) as image:
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
    pictures = Pictures(store, index, len(inputs.mean), inputs.background)
    pictures.folder = run
    return pictures


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # torchvision says "decode_jpeg, decode_jpeg.cpp:171, what is wrong"
    return f"cannot be decoded: {str(error).splitlines()[0].split(', ')[-1]}"
