"""Log-mel energies: to look at speech, as a floor for its features, and as the spectrograms of sound."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

BANDS = 40


_WINDOW = 0.025
"""Seconds that a frame looks at."""


def log_mel(wave: np.ndarray, sample_rate: int, bands: int = BANDS, frame_rate: float = 100) -> np.ndarray:
    """Logarithms of mel energies from 0 to half the sample rate, in windows of 25 ms, by default 10 ms apart.

    Args:
        wave: Floating point [samples].
        sample_rate: Hz.
        bands: Filters.
        frame_rate: Frames in a second.

    Returns:
        float64 [frames, bands].
    """
    window, step = _window(sample_rate, frame_rate)
    # At least 512 points, and more if a narrow band would lie between two of them.
    narrowest = 700 * (10 ** (2595 * np.log10(1 + sample_rate / 2 / 700) / (bands + 1) / 2595) - 1)
    points = max(512, 1 << (max(window, int(np.ceil(sample_rate / narrowest))) - 1).bit_length())
    wave = np.pad(wave.astype(np.float64), (0, max(0, window - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, window)[::step] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, points)) ** 2
    return np.asarray(np.log(power @ _filters(sample_rate, points, bands).T + 1e-8))


def frame_count(samples: Any, sample_rate: int, frame_rate: float = 100) -> Any:
    """Frames that `log_mel` makes of `samples` samples, an integer or an array of them; 0 of none."""
    window, step = _window(sample_rate, frame_rate)
    return np.where(np.asarray(samples) > 0, (np.maximum(samples, window) - window) // step + 1, 0)


def samples_of(first: int, count: int, sample_rate: int, frame_rate: float = 100) -> tuple[int, int]:
    """Which samples `log_mel` makes the frames [first, first + count) of: the first one, and how many."""
    window, step = _window(sample_rate, frame_rate)
    return first * step, (count - 1) * step + window


def _window(sample_rate: int, frame_rate: float) -> tuple[int, int]:
    """Samples of a window, and from one to the next."""
    return max(2, round(_WINDOW * sample_rate)), max(1, round(sample_rate / frame_rate))


@functools.lru_cache(maxsize=8)
def _filters(sample_rate: int, points: int, bands: int = BANDS) -> np.ndarray:
    """Triangles that overlap by half, equally wide in mel: float64 [bands, points / 2 + 1]."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    hertz = np.linspace(0, sample_rate / 2, points // 2 + 1)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rise, fall), 0, None)
