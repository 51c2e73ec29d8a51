"""Sections about data: maps, what is like what, predictions that are judged."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from finetunings import CLASSES, labelled
from PIL import Image

from d2v_fast.commands import cli
from d2v_fast.errors import DataError
from d2v_fast.modalities.drawing import Picture, Spectrogram
from d2v_fast.report import maps, page, similarity
from d2v_fast.report.looks import looks
from d2v_fast.report.seen import read


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of pictures of three classes."""
    samples, classes = labelled("vision")
    folder = tmp_path_factory.mktemp("pictures")
    for i, k in enumerate(classes):
        (folder / CLASSES[k]).mkdir(exist_ok=True)
        Image.fromarray(samples.read(i)).save(folder / CLASSES[k] / f"{i:02}.png")
    return folder


def sections(runs, data, **options):
    return {section.anchor: section.content for section in looks(read(runs), data, **options)}


def test_a_pretraining_on_labelled_pictures(pretrained, pictures):
    pytest.importorskip("matplotlib")
    run = pretrained("vision")
    before = sorted(path.name for path in run.iterdir())
    made = sections([run], pictures)
    assert list(made) == ["masks", "map", "similarity"]
    assert "run: student" in made["map"]
    assert "run: random start" in made["map"]
    for name in CLASSES:
        assert f"{name} (16)" in made["map"]
    assert "48 samples" in made["map"]
    assert "kNN accuracy in all directions, on the 12 held out" in made["map"]
    assert made["similarity"].count("<img") == 12  # of three samples a picture, and three maps
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize("modality", ["speech", "text", "series", "spectrogram"])
def test_every_input_has_its_likeness(modality, make_config, make_data, train, tmp_path):
    run = train(make_config(modality, steps=1), tmp_path / "run")
    made = sections([run], make_data(modality))
    assert "Without colours, as there are no classes" in made["map"]
    assert "<svg" in made["map"]
    assert made["similarity"].count("<img") >= 3
    if modality == "text":
        assert 'class="t here"' in made["similarity"]


def test_a_fine_tuning_is_judged(make_finetuning, pictures, tmp_path):
    make_finetuning(tmp_path / "tuned").fit()
    made = sections([tmp_path / "tuned"], pictures)
    assert list(made) == ["map", "predictions"]
    assert "random start" not in made["map"]
    assert "how often each class is taken for which" in made["predictions"]
    assert "accuracy" in made["predictions"]


def test_a_run_without_a_checkpoint_has_masks_only(pretrained, pictures, tmp_path):
    pytest.importorskip("matplotlib")
    young = tmp_path / "young"
    young.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (young / name).write_bytes((pretrained("vision") / name).read_bytes())
    assert list(sections([young], pictures)) == ["masks"]


def test_what_does_not_fit_is_left_out(pretrained, pictures, monkeypatch):
    monkeypatch.setattr("d2v_fast.report.looks.LARGEST", 1000)
    made = sections([pretrained("vision")], pictures)["similarity"]
    assert "<img" not in made
    assert "Left out, the page would be too large" in made


def test_a_column_that_is_not_there_is_refused(pretrained, pictures):
    with pytest.raises(DataError, match="no sample has a 'species'"):
        maps.feature_maps(read([pretrained("vision")]), pictures, label="species")


def test_a_map_has_so_many_points(pretrained, pictures, monkeypatch):
    monkeypatch.setattr(maps, "SAMPLES", 20)
    made = maps.feature_maps(read([pretrained("vision")]), pictures)
    assert "20 samples" in made
    assert len(re.findall(r"h0", made.split("</article>")[0].split("</ul>")[1])) == 20


def test_what_is_like_what_is_the_cosine(monkeypatch):
    features = np.array([[2.0, 0], [0, 2], [-2, 0], [0, -2]])
    np.testing.assert_allclose(
        similarity._cosines(features + 7), [[1, 0, -1, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, -1, 0, 1]], atol=1e-12
    )
    assert not similarity._cosines(np.ones((3, 2))).any()  # all alike: nothing is told apart


@pytest.mark.parametrize("down", [False, True], ids=["rows", "columns"])
def test_the_grid_is_that_of_the_mask(down):
    mask = np.array([1, 0, 0, 1, 1, 0], dtype=bool)
    shown = mask.reshape(3, 2).T if down else mask.reshape(2, 3)
    grid = similarity._grid(mask, shown)
    np.testing.assert_array_equal(mask[grid], shown)
    assert sorted(grid.ravel().tolist()) == list(range(6))
    assert similarity._grid(mask, ~shown) is None
    assert similarity._grid(mask, mask) is None


def test_the_map_lies_on_the_picture():
    """One patch differs from all others: its own map is bright there alone."""
    features = np.tile([1.0, 0.0], (16, 1))
    features[10] = [0.0, 1.0]  # row 2, column 2: the middle
    panel = Picture(pixels=np.zeros((8, 8), dtype=np.uint8), mask=np.zeros((4, 4), dtype=bool))
    made = similarity._sample(panel, similarity._cosines(features), np.zeros(16, dtype=bool), "a run")
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in re.findall(r"base64,([^\"]+)", made)
    ]
    assert len(pictures) == 4
    middle = pictures[1].astype(int)
    side = middle.shape[0] // 4
    tiles = middle.reshape(4, side, 4, side, 3)[:, side // 2, :, side // 2]
    bright = tiles.sum(2)
    assert (bright == bright.max()).sum() == 1
    assert bright[2, 2] == bright.max()
    assert "row 3, column 3" in made


def test_low_bands_are_at_the_bottom():
    features = np.tile([1.0, 0.0], (12, 1))  # 6 times, 2 bands, a band after the other at each time
    features[0] = [0.0, 1.0]  # the first time, the low band
    mask = np.zeros(12, dtype=bool)
    mask[0] = True
    panel = Spectrogram(energies=np.zeros((8, 24)), seconds=1.0, mask=mask.reshape(6, 2).T)
    made = similarity._sample(panel, similarity._cosines(features), mask, "a run")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)", made)[1])))).astype(int)
    tiles = picture[[picture.shape[0] // 4, 3 * picture.shape[0] // 4]][
        :, picture.shape[1] // 12 :: picture.shape[1] // 6
    ]
    assert np.unravel_index(tiles.sum(2).argmin(), tiles.shape[:2]) == (1, 0)


def test_the_command_shows_them(pretrained, pictures, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    cli.main(["report", str(pretrained("vision")), "--data", str(pictures), "--network", "teacher"])
    made = (tmp_path / "report.html").read_text()
    for title in ("Masks on samples", "Map of features", "What is like what", "run: teacher"):
        assert title in made
    assert "<script" not in made


def test_watching_makes_maps_anew_for_new_checkpoints_only(pretrained, pictures, tmp_path, monkeypatch):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(pretrained("vision"), run)
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(re.sub(r'("steps": )1\b', r"\g<1>3", config))
    made, pages = [], []

    def look(runs, data, **options):
        made.append(runs[0].run.checkpoints())
        return [page.Section("map", "Map of features", f"map {len(made)}")]

    def sleep(seconds):
        pages.append((tmp_path / "report.html").read_text())
        step = len(pages) + 1
        with open(run / "metrics.jsonl", "a") as file:
            file.write(f'{{"step": {step}, "loss": 1.0}}\n')
        if step == 3:
            shutil.copytree(run / "checkpoints" / "step_00000001", run / "checkpoints" / "step_00000003")

    monkeypatch.setattr("d2v_fast.report.looks.looks", look)
    monkeypatch.setattr("d2v_fast.commands.report.time.sleep", sleep)
    cli.main(["report", str(run), "--data", "x", "--watch", "5", "--out", str(tmp_path / "report.html")])
    assert made == [[1], [1, 3]]
    assert all("map 1" in seen for seen in pages)
    assert "map 2" in (tmp_path / "report.html").read_text()
