"""How clips become rows of a batch: windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast import rng
from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.plan import fill_unknown
from d2v_fast.errors import DataError
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.speech.transforms import clip_into


@dataclass(frozen=True)
class ClipPlan:
    """Which window of each clip is used."""

    starts: np.ndarray
    """int64 [B], first sample."""

    windows: np.ndarray
    """int64 [B], samples of the window; what a row has more is silence."""

    @property
    def width(self) -> int:
        """Samples of a row: of the longest window."""
        return int(self.windows.max())

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 [B], valid samples of each row; None if all rows are full."""
        return None if (self.windows == self.width).all() else self.windows


class ClipSampling:
    """See `Sampling`.

    Args:
        inputs: How files become inputs.
        pad: Rows are filled up with silence to the longest, not cropped to the shortest.
    """

    def __init__(self, inputs: SpeechInputs, *, pad: bool) -> None:
        self.inputs, self._pad = inputs, pad

    def usable(self, sizes: np.ndarray) -> np.ndarray:
        """All but clips that are too short."""
        inputs = self.inputs
        least = max(1, round(inputs.min_seconds * inputs.sample_rate))
        usable = np.flatnonzero((sizes >= least) | (sizes == 0)).astype(np.int64)
        if not (sizes[usable] > 0).any():
            longest = sizes.max() / inputs.sample_rate
            raise DataError(
                f"data: no clip is as long as inputs.min_seconds {inputs.min_seconds} (the longest has {longest:.2f} "
                "s): lower it, or join clips"
            )
        return usable

    def known(self, sizes: np.ndarray) -> np.ndarray:
        """An unreadable clip counts as one of the median length."""
        return fill_unknown(sizes)

    def lengths(self, sizes: np.ndarray) -> np.ndarray | None:
        """Samples."""
        return sizes

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """`loader.batch_seconds` in samples."""
        return None if config.batch_seconds is None else round(config.batch_seconds * self.inputs.sample_rate)

    def longest(self, longest: int, budget: int | None) -> int:
        """The longest window, in samples."""
        return min(round(self.inputs.max_seconds * self.inputs.sample_rate), budget or longest)

    def draw(self, sizes: np.ndarray, ids: np.ndarray, most: int, seed: int, epoch: int) -> ClipPlan:
        """A window of at most `most` samples at a random place in each clip."""
        windows = np.minimum(sizes, most)
        if not self._pad:
            windows = np.full_like(windows, windows.min())
        return plan_clips(sizes, ids, windows, seed, epoch)

    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """float32 [count, samples]."""
        return (count, details.width), torch.float32

    def write(self, out: Tensor, sample: Any, details: ClipPlan, row: int, size: np.ndarray, name: str) -> None:
        """Normalises the clip and writes its window, silence behind it; see `clip_into`."""
        start, length = int(details.starts[row]), int(details.windows[row])
        clip_into(out[:length], sample, start, int(size), normalize=self.inputs.normalize, name=name)
        out[length:] = 0

    def remarks(self, sizes: np.ndarray, used: int) -> Sequence[str]:
        """How many clips are too short."""
        short = len(sizes) - used
        return [f"left out {short} of {len(sizes)} clips, shorter than inputs.min_seconds"] if short else []


def plan_clips(sizes: np.ndarray, ids: np.ndarray, windows: np.ndarray, seed: int, epoch: int) -> ClipPlan:
    """A window of `windows` samples, int64 [B], at a random place in each clip of `sizes` samples, int64 [B]."""
    u = rng.uniform(seed, "window", epoch, ids, 1)[:, 0]
    return ClipPlan(np.floor(u * (sizes - windows + 1)).astype(np.int64), windows)
