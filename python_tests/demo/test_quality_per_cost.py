"""benchmarks/quality_per_cost.py in its quick form: it chooses on the development split and resumes."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from d2v_fast.demo.task import Labelled

for module in ("sklearn", "matplotlib"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def script():
    """quality_per_cost.py, whose neighbours it imports by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module("quality_per_cost")


def test_the_quick_form_leaves_a_table_and_a_picture_and_resumes(script, tmp_path, capsys, monkeypatch):
    command = ["vision", "--out", str(tmp_path), "--quick"]
    script.main(command)
    folder = tmp_path / "vision"
    points = json.loads((folder / "points.json").read_text())
    for method in ("1.0", "2.0"):
        assert [point["steps"] for point in points[method]] == [1, 2]
        for point in points[method]:
            # The rate is the best of the grid on the development split.
            grid = [
                json.loads((folder / f"{method}-{point['steps']:06d}-x{rate}-development-1000.json").read_text())
                for rate in (1, 2)
            ]
            scores = [np.mean(list(one["accuracy"].values())) for one in grid]
            assert point["rate"] == (1, 2)[int(np.argmax(scores))]
            assert len(point["seconds"]) == len(point["accuracy"]["knn"]) == 2
            assert all(seconds > 0 for seconds in point["seconds"])
    assert len(list(folder.glob("*-test-*.json"))) == 8
    assert (folder / "quality.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n| 1.0 |") == table.count("\n| 2.0 |") == 2

    # The same command trains nothing again; what is of another configuration is not mixed with it.
    monkeypatch.setattr(script, "Data2VecTrainer", None)
    script.main(command)
    assert json.loads((folder / "points.json").read_text()) == points
    one = next(folder.glob("2.0-000001-*-test-0.json"))
    result = json.loads(one.read_text())
    result["config"]["optim"]["lr"] = 1.0
    one.write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="is of another configuration"):
        script.main(command)


def test_without_time_no_run_is_begun(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "Data2VecTrainer", None)
    script.main(["vision", "--out", str(tmp_path), "--quick", "--minutes", "-1"])
    assert json.loads((tmp_path / "vision" / "points.json").read_text()) == {"1.0": [], "2.0": []}


def test_a_voice_is_in_one_part_of_the_development_split(script):
    groups = np.repeat(np.arange(40), 5)
    clips = [np.array([i]) for i in range(200)]
    whole = Labelled(clips, np.arange(200) % 7, np.zeros((200, 2)), groups=groups)
    study = script.Study.__new__(script.Study)
    study.task = type("Task", (), {"train": whole, "test": None})
    fit, by = study.parts("development")
    assert len(fit) + len(by) == 200
    assert 5 <= len(set(by.groups)) <= 16
    assert not set(fit.groups) & set(by.groups)
    assert study.parts("test") == (whole, None)


def test_reached_asks_for_the_mean_of_the_seeds(script):
    points = [
        {"seconds": [1.0, 3.0], "accuracy": {"knn": [0.5, 0.9]}},
        {"seconds": [4.0, 6.0], "accuracy": {"knn": [0.8, 0.8]}},
    ]
    assert script.reached(points, "knn", 0.7) == 2.0
    assert script.reached(points, "knn", 0.75) == 5.0
    assert script.reached(points, "knn", 0.81) is None


def test_a_larger_set_changes_both_presets_alike_and_leaves_width_and_depth(script, tmp_path):
    if not sys.modules["outcomes_data"].FASHION.is_dir():
        pytest.skip("Fashion-MNIST is not installed (the Debian package dataset-fashion-mnist)")
    study = script.Study("vision", "fashion", tmp_path, quick=False, minutes=0, threads=1)
    one, two = study.recipes["1.0"], study.recipes["2.0"]
    assert one.inputs == two.inputs
    assert one.model.embedding == two.model.embedding
    assert one.model.embedding.image_size == study.task.train.inputs[0].shape[0] == 28
    assert (one.model.transformer.dim, one.model.transformer.depth) == (
        two.model.transformer.dim,
        two.model.transformer.depth,
    )
    assert one.ema.anneal_steps == one.steps  # followed
    seen = {picture.tobytes() for picture in study.task.train.inputs}
    assert len(seen) == 4000
    assert not seen & {picture.tobytes() for picture in study.task.test.inputs}
