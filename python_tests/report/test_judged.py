"""What probe and evaluate have written, on the page."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from d2v_fast.evaluation.judging import Comparison, Probing, Score
from d2v_fast.finetuning.predict import Evaluation
from d2v_fast.report.results import tables

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def probing():
    scores = [
        Score(network, layer, {"knn": 0.5 + layer / 10}, {"knn": (0.4, 0.9)}, {"rankme": 12.5, "lidar": float("nan")})
        for network in ("student", "teacher", "initial")
        for layer in (0, 1, 2)
    ]
    compared = [Comparison("knn", "teacher", "student", (2, 1), (0.7, 0.6), (0.02, 0.18))]
    found = asdict(Probing(scores, compared, (100, 30), 0.1, None))
    for score in found["scores"]:
        score["label_free"]["lidar"] = None
    return json.loads(json.dumps(found))


def test_a_probing(probing):
    made = tables(probing, title="probe.json")
    assert "knn by layer" in made
    assert "chance ends at 0.1" in made
    assert made.count('class="band"') == 4  # one for each network, and the legend's
    assert "knn: teacher 0.700 (layer 2), student 0.600 (layer 1)" in made
    assert "difference +0.100 [+0.020, +0.180]: the teacher is better." in made
    assert "0.700 [0.400, 0.900]" in made
    assert "12.5" in made


def test_an_evaluation():
    found = Evaluation(9, {"accuracy": 2 / 3, "f1": None}, {"accuracy": (0.4, 0.9)}, ("cat", NASTY),
                       np.array([[4, 1], [2, 2]])).as_dict()  # fmt: skip
    made = tables(found, title="test.json")
    assert "0.6667" in made
    assert "0.4 to 0.9" in made
    assert NASTY not in made
    assert "80%" in made  # cats
    assert "50%" in made


def test_of_many_classes_the_mistakes_are_named():
    counts = np.diag(np.full(40, 5))
    counts[3, 7] = 4
    found = Evaluation(204, {"accuracy": 0.98}, {}, tuple(f"c{i}" for i in range(40)), counts).as_dict()
    made = tables(found, title="test.json")
    assert "the most frequent mistakes" in made
    assert '<td class="n">c7</td><td class="n">4</td><td class="n">44%</td>' in made


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [{"network": 1}]},
        {"comparisons": [{"interval": "x"}]},
        {"scores": [{"network": "a", "layer": "b", "values": {"knn": "c"}, "intervals": {}}]},
        {"chance": None},
    ],
)
def test_another_file_of_the_same_fields_is_a_plain_table(probing, change):
    made = tables(probing | change, title="own.json")
    assert "by layer" not in made
    assert "samples" in made


def test_a_confusion_that_is_none():
    made = tables({"samples": 3, "metrics": {"accuracy": 1.0}, "intervals": {}, "classes": ["a"], "confusion": [["x"]]},
                  title="own.json")  # fmt: skip
    assert "taken for" not in made
