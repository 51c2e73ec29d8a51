"""Pictures in DALI's graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.math as dmath
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType
from PIL import Image

from d2v_fast.data.engines.dali_graph import Sample, external, put_on
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.dali_screen import is_plain_picture
from d2v_fast.modalities.vision.sampling import PicturePlan
from d2v_fast.modalities.vision.transforms import GREY


class PictureGraph:
    """See `DaliGraph`.

    Args:
        inputs: How files become inputs.
        side: Height and width of the output, in pixels.
    """

    def __init__(self, inputs: VisionInputs, side: int) -> None:
        self._inputs, self._side = inputs, side

    def define(self, *, gpu: bool) -> Any:
        """The output node; pictures are decoded by nvJPEG's mixed decoder on a GPU."""
        return _pictures(self._inputs, self._side, "mixed" if gpu else "cpu", put_on(gpu))

    def example(self) -> Sample:
        """A black picture."""
        file = BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        box, encoded = np.array([0, 0, 8, 8]), np.frombuffer(file.getvalue(), np.uint8)
        return picture(encoded, box, False, np.ones(3), self._side, self._inputs)

    def feed(self, encoded: bytes, details: PicturePlan, row: int, size: np.ndarray) -> Sample | None:
        """The file's bytes and what the plan says; RandAugment and erasing are left to the native code."""
        if details.operations is not None or details.erased is not None:
            return None
        height, width = size.tolist()
        if not is_plain_picture(encoded, height, width, grey=len(self._inputs.mean) == 1):
            return None
        box, flip, colours = details.boxes[row], bool(details.flips[row]), details.colours[row]
        return picture(np.frombuffer(encoded, np.uint8), box, flip, colours, self._side, self._inputs)


def picture(
    encoded: np.ndarray, box: np.ndarray, flip: bool, colours: np.ndarray, side: int, inputs: VisionInputs
) -> Sample:
    """What the graph of pictures is fed: the file's bytes, uint8 [N], and what the plan says (see `PicturePlan`)."""
    _, _, height, width = box.tolist()
    fed = {
        "encoded": encoded,
        "start": box[:2].astype(np.int32),
        "shape": box[2:].astype(np.int32),
        "borders": np.concatenate([border(width, side), border(height, side)])[:, :, None],
        "flip": np.array(flip, np.int32),
    }
    if not _jitters(inputs):
        return fed
    saturation = colours[2] * np.eye(3) + (1 - colours[2]) * np.array([GREY] * 3)
    return fed | {"factors": colours[:2].astype(np.float32), "saturation": saturation.astype(np.float32)}


def _jitters(inputs: VisionInputs) -> bool:
    return inputs.jitter > 0 and len(inputs.mean) == 3


def _pictures(inputs: VisionInputs, side: int, decoder: str, put: Callable[[Any], Any]) -> Any:
    start, shape = external("start", DALIDataType.INT32, 1), external("shape", DALIDataType.INT32, 1)
    borders, flip = put(external("borders", DALIDataType.FLOAT, 3)), external("flip", DALIDataType.INT32, 0)
    image = fn.decoders.image_slice(
        external("encoded", DALIDataType.UINT8, 1),
        start,
        shape,
        axes=[0, 1],
        device=decoder,
        output_type=DALIImageType.RGB if len(inputs.mean) == 3 else DALIImageType.GRAY,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )
    image = _resize(image, side, borders)
    if _jitters(inputs):
        factors = put(external("factors", DALIDataType.FLOAT, 1))
        image = _jitter(image, factors[0], factors[1], external("saturation", DALIDataType.FLOAT, 2))
    mean, std = ([255 * value for value in values] for values in (inputs.mean, inputs.std))
    return fn.crop_mirror_normalize(
        image, dtype=DALIDataType.FLOAT, output_layout="CHW", mean=mean, std=std, mirror=flip
    )


def _resize(image: Any, side: int, borders: Any) -> Any:
    """Bicubic as torch and Pillow have it: across, then down, each rounded to uint8.

    They leave out what the filter would see beyond the border; DALI repeats the border's pixel there, which is taken
    off again: `borders` holds the weights before and behind the border, and 1 / the rest (see `border`).
    """
    across = partial(fn.resize, mode="stretch", interp_type=DALIInterpType.INTERP_CUBIC, dtype=DALIDataType.FLOAT)
    wide = across(image, resize_x=side)
    first, last = image[:, 0:1], image[:, -1:]
    image = fn.cast((wide - borders[0] * first - borders[1] * last) * borders[2], dtype=DALIDataType.UINT8)
    high = across(image, resize_y=side)
    first, last = image[0:1], image[-1:]
    borders = fn.reshape(borders, shape=[6, side, 1, 1])
    return fn.cast((high - borders[3] * first - borders[4] * last) * borders[5], dtype=DALIDataType.UINT8)


def _jitter(image: Any, brightness: Any, contrast: Any, saturation: Any) -> Any:
    """As `transforms.jitter_` has it; `saturation` is the matrix that mixes the colours of a pixel."""
    image = dmath.clamp(image * brightness, 0.0, 255.0)
    colour = fn.reductions.mean(image, axes=[0, 1])
    mean = GREY[0] * colour[0] + GREY[1] * colour[1] + GREY[2] * colour[2]
    image = dmath.clamp((image - mean) * contrast + mean, 0.0, 255.0)
    mixed = fn.coord_transform(image, M=saturation)
    return dmath.clamp(fn.reshape(mixed, layout="HWC"), 0.0, 255.0)


@lru_cache(maxsize=1 << 14)
def border(size: int, side: int) -> np.ndarray:
    """Weights of the antialiased bicubic filter (a = -1/2) beyond the borders, when `size` pixels become `side`.

    Returns:
        float32 [3, side]: before the first pixel, behind the last, and 1 / (the weight of all others).
    """
    if size == side:  # not resized
        return np.stack([np.zeros(side), np.zeros(side), np.ones(side)]).astype(np.float32)
    scale = size / side
    stretch = max(scale, 1.0)
    centres = (np.arange(side) + 0.5) * scale
    pixels = np.floor(centres - 2 * stretch)[:, None] + np.arange(int(np.ceil(4 * stretch)) + 2)
    weights = _cubic((pixels + 0.5 - centres[:, None]) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    before, behind = (weights * (pixels < 0)).sum(axis=1), (weights * (pixels >= size)).sum(axis=1)
    return np.stack([before, behind, 1 / (1 - before - behind)]).astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0.0))
