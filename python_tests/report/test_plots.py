import io
import struct
import sys

import numpy as np
import pytest

from d2v_fast.report import plots

pytest.importorskip("matplotlib")


def png_size(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_all_panels_make_a_png_of_the_asked_size():
    rng = np.random.default_rng(0)
    lines = [{"step": 10, "loss": 2.0, "rank": None}, {"step": 20, "loss": 1.0, "rank": 3.0}]
    figure = plots.figure(6, 4)
    axes = figure.subplots(2, 3).ravel()
    plots.curves(axes[0], lines, {"loss": "loss", "rank": "rank", "absent": "absent"}, title="a", unit="b")
    plots.masked_pictures(axes[1], rng.random((3, 8, 8)), rng.random((3, 4, 4)) > 0.5, columns=2, title="c")
    plots.masked_spectrogram(axes[2], rng.random((40, 100)), rng.random(50) > 0.5, seconds=1.0, title="d")
    plots.masked_tokens(axes[3], [" one", "$two$", "\n"], [True, False, False], columns=10, title="e")
    plots.feature_map(axes[4], rng.random((30, 2)), np.arange(30) % 12, [str(i) for i in range(12)], title="f")
    plots.accuracy_bars(axes[5], {"raw": {"kNN": (0.5, 0.1)}, "student": {"kNN": (0.9, 0.05)}}, title="g")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    assert png_size(buffer.getvalue()) == (300, 200)


def test_curves_leave_gaps_where_a_value_is_missing():
    axes = plots.figure(2, 2).subplots()
    plots.curves(axes, [{"step": 1, "a": 1.0}, {"step": 2, "a": None}, {"step": 3}], {"a": "a"}, title="", unit="")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3])


def test_masked_patches_are_grey_and_the_others_as_they_were():
    pictures = np.zeros((2, 4, 4))
    pictures[1] = 1
    masks = np.array([[[True, False], [False, False]], [[False, False], [False, True]]])
    axes = plots.figure(2, 2).subplots()
    plots.masked_pictures(axes, pictures, masks, columns=2, title="")
    sheet = axes.images[0].get_array()
    grey = int(plots.MASKED[1:3], 16) / 255
    assert sheet.shape == (4, 9, 3)
    np.testing.assert_allclose(sheet[:2, :2], grey)
    np.testing.assert_allclose(sheet[2:, :4], 0)
    np.testing.assert_allclose(sheet[:, 4], 1)  # the gap
    np.testing.assert_allclose(sheet[2:, 7:], grey)
    np.testing.assert_allclose(sheet[:2, 5:], 1)


def test_masked_spans_are_where_the_mask_is():
    axes = plots.figure(2, 2).subplots()
    mask = np.array([False, True, True, False, False, False, False, True])
    plots.masked_spectrogram(axes, np.ones((4, 16)), mask, seconds=4.0, title="")
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    assert spans == [(0.5, 1.5), (3.5, 4.0)]


def test_without_matplotlib_the_error_is_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'd2v_fast\[demo\]'"):
        plots.figure(2, 2)


def test_a_matplotlib_that_is_broken_is_an_error_of_the_same_kind(monkeypatch, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/__init__.py").write_text("")
    (tmp_path / "matplotlib/figure.py").write_text("raise AttributeError('_ARRAY_API not found')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"matplotlib, which cannot be loaded \(AttributeError: _ARRAY_API"):
        plots.figure(1, 1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]
