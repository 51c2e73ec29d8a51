"""Log-mel energies, to look at and as a floor that features are held against; the model itself sees the waveform."""

from __future__ import annotations

import functools

import numpy as np

BANDS = 40


def log_mel(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Logarithms of mel energies from 0 to half the sample rate, in windows of 25 ms, 10 ms apart.

    Args:
        wave: Floating point [samples].
        sample_rate: Hz.

    Returns:
        float64 [frames, BANDS].
    """
    window, step = max(2, round(0.025 * sample_rate)), max(1, round(0.01 * sample_rate))
    # At least 512 points: with fewer, a narrow band at a low sample rate would lie between two of them.
    points = max(512, 1 << (window - 1).bit_length())
    wave = np.pad(wave.astype(np.float64), (0, max(0, window - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, window)[::step] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, points)) ** 2
    return np.asarray(np.log(power @ _filters(sample_rate, points).T + 1e-8))


@functools.lru_cache(maxsize=8)
def _filters(sample_rate: int, points: int) -> np.ndarray:
    """Triangles that overlap by half, equally wide in mel: float64 [BANDS, points / 2 + 1]."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, sample_rate / 2, points // 2 + 1)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rise, fall), 0, None)
