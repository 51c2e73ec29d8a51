"""One row of a micro-batch: what the native engine does to a sample, and what every other engine falls back on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from d2v_fast.data.config import InputsConfig
from d2v_fast.data.plan import BatchPlan, ClipPlan, PicturePlan
from d2v_fast.data.source import DataSource
from d2v_fast.data.transforms import clip_into, picture_into, tokens_into
from d2v_fast.errors import DataError, SampleError
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs


class RowMaker:
    """Reads planned samples, each into a row of a batch.

    Args:
        source: Where samples come from.
        inputs: How a sample becomes an input.
        image_size: Vision: height and width of the model's input.
        pin: Rows in page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(self, source: DataSource, inputs: InputsConfig, image_size: int | None, *, pin: bool) -> None:
        self.source, self.inputs, self.image_size, self.pin = source, inputs, image_size, pin
        self._pad_id: int = getattr(source, "pad_id", 0)  # of a text source
        self._label: Callable[[int], str] = getattr(source, "label", source.name)  # with the path, where there is one

    def allocate(self, plan: BatchPlan, count: int | None = None) -> Tensor:
        """Rows for `count` samples of a plan, for all of them by default: [count, ...], not filled in."""
        count = len(plan.ids) if count is None else count
        if isinstance(plan.details, PicturePlan):
            assert isinstance(self.inputs, VisionInputs)
            assert self.image_size is not None
            shape: tuple[int, ...] = (count, len(self.inputs.mean), self.image_size, self.image_size)
        else:
            shape = (count, plan.details.width)
        dtype = torch.float32 if isinstance(plan.details, (PicturePlan, ClipPlan)) else torch.int64
        return torch.empty(shape, dtype=dtype, pin_memory=self.pin)

    def make(self, out: Tensor, plan: BatchPlan, row: int) -> None:
        """Reads sample `row` of the plan into `out`, one row of `allocate`.

        Raises:
            SampleError: The sample cannot be read.
            DataError: Reading it failed in a way that nobody foresaw.
        """
        sample = int(plan.ids[row])
        name = self._label(sample)
        with self.explained(sample):
            raw = self.source.read(sample)
            details = plan.details
            if isinstance(details, PicturePlan):
                assert isinstance(self.inputs, VisionInputs)
                box, flip, colours = details.boxes[row], bool(details.flips[row]), details.colours[row]
                picture_into(out, raw, box, flip, colours, self.source.sizes[sample], self.inputs, name)
            elif isinstance(details, ClipPlan):
                assert isinstance(self.inputs, SpeechInputs)
                size, start, length = int(self.source.sizes[sample]), int(details.starts[row]), details.lengths[row]
                clip_into(out[:length], raw, start, size, normalize=self.inputs.normalize, name=name)
                out[length:] = 0
            else:
                length = details.lengths[row]
                tokens_into(out[:length], raw, name)
                out[length:] = self._pad_id

    @contextmanager
    def explained(self, sample: int) -> Iterator[None]:
        """Gives an error that nobody foresaw the name of the sample."""
        try:
            yield
        except SampleError:
            raise
        except Exception as error:
            name = self._label(sample)
            raise DataError(f"reading sample {sample} ({name}) failed: {type(error).__name__}: {error}") from error
