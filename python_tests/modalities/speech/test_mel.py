"""Log-mel energies find a tone, at any sample rate."""

from __future__ import annotations

import numpy as np
import pytest

from d2v_fast.modalities.speech.mel import BANDS, _filters, log_mel


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 22050, 48000])
def test_a_tone_is_in_its_band(rate):
    hertz = rate / 16
    energies = log_mel(np.sin(2 * np.pi * hertz * np.arange(rate) / rate), rate)
    assert energies.shape[1] == BANDS
    assert energies.shape[0] == pytest.approx(98, abs=1)  # of 25 ms, every 10 ms, of a second
    edges = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), BANDS + 2)
    band = np.argmin(np.abs(700 * (10 ** (edges[1:-1] / 2595) - 1) - hertz))
    assert abs(int(energies.mean(0).argmax()) - int(band)) <= 1
    assert energies.mean(0).max() - energies.mean(0).min() > 8


@pytest.mark.parametrize("rate", [1000, 4000, 8000, 11025, 16000, 44100, 96000])
def test_no_band_is_empty(rate):
    points = max(512, 1 << (round(0.025 * rate) - 1).bit_length())
    assert (_filters(rate, points).sum(1) > 0).all()


def test_a_clip_shorter_than_a_window_has_a_frame():
    assert log_mel(np.ones(7, np.float32), 16000).shape == (1, BANDS)
