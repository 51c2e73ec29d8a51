"""The DALI graphs: from a file's bytes and its plan to what the native engine makes of them, on a CPU or a GPU.

The only file that imports DALI. A graph is the same for both devices but for the pipeline's `device_id`, the picture
decoder's device and the copies to the GPU (`put`). Nothing in it is random: it is a function of what it is fed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.math as dmath
import soundfile
import torch
from nvidia.dali import Pipeline
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType
from PIL import Image
from torch import Tensor

from d2v_fast.data.transforms import GREY
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

DEPTH = 2
"""Batches in flight: while one is on the GPU, the CPU's part of the next is done."""

Sample = Mapping[str, np.ndarray]
"""What a graph is fed for one sample: "encoded" and what its plan says, by the name of the input."""


class Graph:
    """A running pipeline.

    Args:
        inputs: Of pictures or clips.
        image_size: Vision: height and width of the output.
        batch_size: Samples at most.
        threads: Of DALI.
        device: CPU or CUDA.

    Raises:
        RuntimeError: DALI cannot build the pipeline, or run it.
    """

    def __init__(
        self,
        inputs: SpeechInputs | VisionInputs,
        image_size: int | None,
        batch_size: int,
        threads: int,
        device: torch.device,
    ) -> None:
        self.batch_size = batch_size
        self._pipeline = construct(inputs, image_size, batch_size, threads, device)
        self._pipeline.build()
        for _ in range(DEPTH):  # DALI's first run takes all the batches that may be in flight
            self._feed([_example(inputs, image_size)])
        self._pipeline.schedule_run()
        for _ in range(DEPTH):
            self.take()

    def start(self, samples: Sequence[Sample]) -> None:
        """Begins a batch; at most `DEPTH` of them before the first is taken."""
        self._feed(samples)
        self._pipeline.schedule_run()

    def take(self) -> Tensor:
        """The oldest batch begun, float32 [B, ...] on the graph's device; its memory is DALI's while it is used.

        Raises:
            RuntimeError: A sample cannot be decoded, and the pipeline is dead.
        """
        (output,) = self._pipeline.share_outputs()
        batch: Tensor = torch.from_dlpack(output.as_tensor())
        self._pipeline.release_outputs()
        return batch

    def _feed(self, samples: Sequence[Sample]) -> None:
        for name in samples[0]:
            self._pipeline.feed_input(name, [sample[name] for sample in samples])


def construct(
    inputs: SpeechInputs | VisionInputs, image_size: int | None, batch_size: int, threads: int, device: torch.device
) -> Pipeline:
    """The pipeline, not yet built: for a GPU this needs none."""
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device.index or 0 if device.type == "cuda" else None,
        prefetch_queue_depth=DEPTH,
    )
    with pipeline:
        pipeline.set_outputs(define(inputs, image_size, gpu=device.type == "cuda"))
    return pipeline


def define(inputs: SpeechInputs | VisionInputs, image_size: int | None, *, gpu: bool) -> Any:
    """The output node of the graph; to be called within a pipeline."""
    put = _to_gpu if gpu else _stay
    if isinstance(inputs, SpeechInputs):
        return _clips(inputs, put)
    assert image_size is not None
    return _pictures(inputs, image_size, "mixed" if gpu else "cpu", put)


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


def clip(encoded: np.ndarray, start: int, length: int) -> Sample:
    """What the graph of clips is fed: the file's bytes, uint8 [N], and a window; zeros lie behind the clip's end."""
    numbers = {"start": start, "length": length}
    return {"encoded": encoded} | {name: np.array([value], np.int32) for name, value in numbers.items()}


def _example(inputs: SpeechInputs | VisionInputs, image_size: int | None) -> Sample:
    """A sample that can be decoded."""
    file = BytesIO()
    if isinstance(inputs, SpeechInputs):
        soundfile.write(file, np.arange(8, dtype=np.int16), inputs.sample_rate, format="WAV")
        return clip(np.frombuffer(file.getvalue(), np.uint8), 0, 8)
    assert image_size is not None
    Image.new("RGB", (8, 8)).save(file, "PNG")
    box, encoded = np.array([0, 0, 8, 8]), np.frombuffer(file.getvalue(), np.uint8)
    return picture(encoded, box, False, np.ones(3), image_size, inputs)


def _jitters(inputs: VisionInputs) -> bool:
    return inputs.jitter > 0 and len(inputs.mean) == 3


def _to_gpu(node: Any) -> Any:
    return node.gpu()


def _stay(node: Any) -> Any:
    return node


def _input(name: str, dtype: Any, ndim: int) -> Any:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def _clips(inputs: SpeechInputs, put: Callable[[Any], Any]) -> Any:
    encoded, window = _input("encoded", DALIDataType.UINT8, 1), partial(_input, dtype=DALIDataType.INT32, ndim=1)
    wave, _ = fn.decoders.audio(encoded, dtype=DALIDataType.FLOAT, downmix=True)
    wave = put(wave)
    if inputs.normalize:
        wave = fn.normalize(wave, axes=[0], epsilon=1e-5)
    return fn.slice(wave, window("start"), window("length"), axes=[0], out_of_bounds_policy="pad", fill_values=0.0)


def _pictures(inputs: VisionInputs, side: int, decoder: str, put: Callable[[Any], Any]) -> Any:
    start, shape = _input("start", DALIDataType.INT32, 1), _input("shape", DALIDataType.INT32, 1)
    borders, flip = put(_input("borders", DALIDataType.FLOAT, 3)), _input("flip", DALIDataType.INT32, 0)
    image = fn.decoders.image_slice(
        _input("encoded", DALIDataType.UINT8, 1),
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
        factors = put(_input("factors", DALIDataType.FLOAT, 1))
        image = _jitter(image, factors[0], factors[1], _input("saturation", DALIDataType.FLOAT, 2))
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
