"""Drawings of every modality, and the pictures that are made of any drawing."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from d2v_fast import registry
from d2v_fast.errors import DataError
from d2v_fast.modalities import open_data
from d2v_fast.modalities.drawing import Drawing, Picture, Row, Spectrogram, Waveform, Words
from d2v_fast.report import panels, plots, samples

pytest.importorskip("matplotlib")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_a_drawing_says_what_the_batch_holds(make_config, make_data, modality, tmp_path):
    config = make_config(modality)
    source = open_data(make_data(modality), config, None)
    seen = samples.drawing(source, config, 4)
    masked = [panel for row in seen.rows for panel in row.panels if panel.mask is not None]
    assert masked
    share = np.mean([panel.mask.mean() for panel in masked])
    assert 0.05 < share < 0.95
    assert "%" in seen.title
    samples.render(seen, tmp_path / "a.png", modality)
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", data[16:24])) > 150


def test_pictures_are_the_crops_of_the_batch(make_config, make_data):
    config = make_config("vision")
    source = open_data(make_data("vision"), config, None)
    stored, teacher, student = samples.drawing(source, config, 4).rows
    for whole, crop, masked in zip(stored.panels, teacher.panels, student.panels, strict=True):
        top, left, height, width = whole.frame
        assert top >= 0
        assert left >= 0
        assert top + height <= whole.pixels.shape[0]
        assert left + width <= whole.pixels.shape[1]
        np.testing.assert_array_equal(crop.pixels, masked.pixels)
        assert 0 <= crop.pixels.min() <= crop.pixels.max() <= 1
        mean = whole.pixels[top : top + height, left : left + width].mean() / 255
        assert abs(crop.pixels.mean() - mean) < 0.35  # the jitter changes it


def test_the_window_of_a_clip_is_where_its_samples_are(make_config, make_data):
    config = make_config("speech")
    source = open_data(make_data("speech"), config, None)
    rows = samples.drawing(source, config, 2).rows
    for wave, window in zip(rows[::2], rows[1::2], strict=True):
        (wave,), (window,) = wave.panels, window.panels
        start, length = wave.window
        assert start + length <= len(wave.samples)
        assert window.seconds == pytest.approx(length / wave.rate)


@pytest.mark.parametrize(
    "panel",
    [
        Picture(pixels=RNG.integers(0, 256, (7, 5), dtype=np.uint8), title="a $ b", frame=(1, 1, 3, 2)),
        Picture(pixels=RNG.random((8, 8, 3)), mask=RNG.random((4, 4)) > 0.5),
        Waveform(samples=RNG.normal(size=5000), rate=100, window=(10, 200), title="$x$"),
        Waveform(samples=np.stack([RNG.normal(size=50), np.full(50, np.nan)]), rate=0.5, mask=np.eye(5)[2] > 0),
        Spectrogram(energies=RNG.normal(size=(10, 30)), seconds=2.0),
        Spectrogram(energies=RNG.normal(size=(10, 30)), seconds=2.0, mask=RNG.random((5, 6)) > 0.5, title="patches"),
        Words(tokens=(" one", "$", "\n"), mask=np.array([True, False, False]), title="$"),
    ],
    ids=lambda panel: type(panel).__name__,
)  # fmt: skip
def test_every_panel_is_rendered(panel, tmp_path):
    samples.render(Drawing(title="x", rows=(Row(panels=(panel,), label="y"),)), tmp_path / "a.png", "z")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert panels.height(panel) > 0.3


def test_masked_patches_of_a_spectrogram_are_where_the_mask_is():
    axes = plots.figure(2, 2).subplots()
    mask = np.array([[True, False], [False, False]])
    panels.render(axes, Spectrogram(energies=np.ones((4, 6)), seconds=3.0, mask=mask))
    spectrogram, grey = axes.images
    assert grey.get_array()[..., 3].tolist() == [[0.85, 0], [0, 0]]
    assert list(grey.get_extent()) == list(spectrogram.get_extent()) == [0, 3.0, 0, 4]
    assert grey.origin == "lower"


def test_masked_patches_of_a_picture_are_grey():
    axes = plots.figure(2, 2).subplots()
    panels.render(axes, Picture(pixels=np.zeros((4, 4)), mask=np.array([[True, False], [False, False]])))
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown[:2, :2], plots.masked_colour()[0])
    assert shown[2:].max() == shown[:, 2:].max() == 0


def test_a_modality_without_a_picture_says_so(make_config, make_data, monkeypatch):
    from d2v_fast.modalities.base import Modality

    config = make_config("vision")
    source = open_data(make_data("vision"), config, None)
    monkeypatch.setattr(type(registry.get("vision")), "draw", Modality.draw)
    with pytest.raises(DataError, match=r"vision gives no picture .* --picture none"):
        samples.drawing(source, config, 2)


def test_a_modality_without_words_of_its_own_tells_its_sizes(make_config, make_data):
    from d2v_fast.modalities.base import Modality

    source = open_data(make_data("vision"), make_config("vision"), None)
    lines, histograms = Modality.describe(registry.get("vision"), source, None)
    assert [name for name, _ in lines] == ["size 1", "size 2"]
    assert sum(histograms[0].counts) == len(source)
