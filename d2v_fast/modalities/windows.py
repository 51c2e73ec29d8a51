"""How signals over time become rows of a batch: a random window of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_fast import rng
from d2v_fast.checks import Check
from d2v_fast.data.config import InputsConfig, LoaderConfig
from d2v_fast.data.plan import fill_unknown
from d2v_fast.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class WindowInputs(InputsConfig):
    """What all signals over time have in common: long ones give a random window, short ones are left out."""

    sample_rate: int = 16000
    """Hz; other rates are resampled by soxr."""

    min_seconds: float = 2.0
    """Shorter clips are left out."""

    max_seconds: float = 20.0
    """Longer clips give a random window of this length, another one each epoch."""

    def check(self, check: Check) -> None:
        """See `Section.check`."""
        check.at_least(1, "sample_rate")
        check.at_least(0, "min_seconds")
        check.above_zero("max_seconds")
        check.require(self.max_seconds >= self.min_seconds, "max_seconds", f"at least min_seconds, {self.min_seconds}")


@dataclass(frozen=True)
class WindowPlan:
    """Which window of each signal is used."""

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


def plan_windows(sizes: np.ndarray, ids: np.ndarray, windows: np.ndarray, seed: int, epoch: int) -> WindowPlan:
    """A window of `windows` samples, int64 [B], at a random place in each signal of `sizes` samples, int64 [B]."""
    u = rng.uniform(seed, "window", epoch, ids, 1)[:, 0]
    return WindowPlan(np.floor(u * (sizes - windows + 1)).astype(np.int64), windows)


class WindowSampling(ABC):
    """A random window of each signal; see `Sampling`. A subclass says how rows look and writes them.

    Args:
        inputs: Shortest and longest window.
        rate: Entries in a second, in which windows are counted: samples, frames.
        least: Entries of the shortest clip that is used; by default those of `inputs.min_seconds`.
        pad: Rows are filled up with silence to the longest, not cropped to the shortest.
    """

    def __init__(self, inputs: WindowInputs, rate: float, *, least: int | None = None, pad: bool) -> None:
        self._window, self._rate, self._pad = inputs, rate, pad
        self._least = max(1, round(inputs.min_seconds * rate)) if least is None else least

    def usable(self, sizes: np.ndarray) -> np.ndarray:
        """All but clips that are too short."""
        sizes, seconds = self.count(sizes), self._window.min_seconds
        usable = np.flatnonzero((sizes >= self._least) | (sizes == 0)).astype(np.int64)
        if not (sizes[usable] > 0).any():
            longest = sizes.max() / self._rate
            raise DataError(
                f"data: no clip is as long as inputs.min_seconds {seconds} (the longest has {longest:.2f} s): lower "
                "it, or join clips"
            )
        return usable

    def count(self, sizes: np.ndarray) -> np.ndarray:
        """int64 [N], entries of each signal from `DataSource.sizes`; 0 where it is unreadable."""
        return sizes

    def known(self, sizes: np.ndarray) -> np.ndarray:
        """An unreadable clip counts as one of the median length."""
        return fill_unknown(self.count(sizes))

    def lengths(self, sizes: np.ndarray) -> np.ndarray | None:
        """Entries."""
        return sizes

    def budget(self, config: LoaderConfig, longest: int) -> int | None:
        """`loader.batch_seconds` in entries."""
        return None if config.batch_seconds is None else round(config.batch_seconds * self._rate)

    def longest(self, longest: int, budget: int | None) -> int:
        """The longest window, in entries."""
        return min(round(self._window.max_seconds * self._rate), budget or longest)

    def draw(self, sizes: np.ndarray, ids: np.ndarray, most: int, seed: int, epoch: int) -> WindowPlan:
        """A window of at most `most` entries at a random place in each signal."""
        windows = np.minimum(sizes, most)
        if not self._pad:
            windows = np.full_like(windows, windows.min())
        return plan_windows(sizes, ids, windows, seed, epoch)

    @abstractmethod
    def rows(self, details: Any, count: int) -> tuple[tuple[int, ...], torch.dtype]:
        """See `Sampling.rows`."""

    @abstractmethod
    def write(self, out: Tensor, sample: Any, details: WindowPlan, row: int, size: np.ndarray, name: str) -> None:
        """See `Sampling.write`."""

    def remarks(self, sizes: np.ndarray, used: int) -> Sequence[str]:
        """How many clips are too short."""
        short = len(sizes) - used
        return [f"left out {short} of {len(sizes)} clips, shorter than inputs.min_seconds"] if short else []


def shortened(inputs: WindowInputs, samples: int) -> WindowInputs:
    """The inputs with clips of so many samples at `inputs.sample_rate`, and with longer ones, used."""
    return replace(inputs, min_seconds=min(inputs.min_seconds, samples / inputs.sample_rate))


def check_budget(loader: LoaderConfig, inputs: WindowInputs) -> None:
    """A batch holds at least one clip.

    Raises:
        ConfigError: It does not.
    """
    if loader.batch_seconds is not None and loader.batch_seconds < inputs.min_seconds:
        raise ConfigError(
            f"loader.batch_seconds is {loader.batch_seconds}, less than one clip of inputs.min_seconds "
            f"{inputs.min_seconds}: raise it"
        )
