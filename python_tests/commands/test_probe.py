"""`d2v-fast probe`: a table, and an answer in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from d2v_fast.commands.cli import main


@pytest.fixture
def labelled(tmp_path):
    """Bright and dark pictures in a folder each."""
    random = np.random.default_rng(0)
    for i in range(40):
        folder = tmp_path / "data" / ("bright" if i % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        picture = random.integers(80 * (i % 2), 120 + 80 * (i % 2), (16, 16, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    return tmp_path / "data"


def test_it_answers_teacher_or_student(make_config, train, labelled, tmp_path, capsys):
    run = train(make_config("vision", steps=2), tmp_path / "run")
    capsys.readouterr()
    main(["probe", str(run), "--data", str(labelled), "--draws", "100", "--out", str(tmp_path / "numbers.json")])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["network", "layer", "knn", "linear", "rankme", "alpha", "uniformity", "lidar"]
    assert [line[0] for line in lines if line and line[0] in ("student", "teacher", "initial")] == [
        "student",
        "teacher",
        "initial",
    ]
    assert "30 to learn from, 10 for the test; chance 0." in out
    assert "linear: teacher " in out
    assert out.count("difference") >= 6
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["scores"]) == 9
    assert numbers["comparisons"][0]["first"] == "teacher"


def test_pairs(make_config, train, labelled, tmp_path, capsys):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    capsys.readouterr()
    main(["probe", str(run), "--data", str(labelled), "--pairs", str(labelled), "--layers", "last", "--draws", "50"])
    out = capsys.readouterr().out
    assert "recall@1" in out
    assert "40 pairs; chance 0.025" in out
    assert "1.000 [1.000, 1.000]" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pairs", "x", "--label", "y"], "--pairs needs no labels"),
        (["--network", "initial"], "invalid choice"),
        (["--label", "gone"], "no sample has a 'gone'"),
        (["--group", "speaker"], "group: no sample has a 'speaker'"),
    ],
)
def test_errors_are_one_line(make_config, train, labelled, tmp_path, capsys, options, words):
    run = train(make_config("vision", steps=1), tmp_path / "run")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["probe", str(run), "--data", str(labelled), *options])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
