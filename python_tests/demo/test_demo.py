import importlib.util
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2v_fast import demo
from d2v_fast.demo import run as running
from d2v_fast.demo import speech, text, vision
from d2v_fast.demo.task import Labelled, require

for module in ("sklearn", "matplotlib", "espeakng_loader"):
    pytest.importorskip(module)


def a_few(part, count):
    chosen = np.linspace(0, len(part) - 1, count).astype(int)
    groups = None if part.groups is None else part.groups[chosen]
    places = None if part.positions is None else part.positions[chosen]
    inputs = [part.inputs[i] for i in chosen]
    return Labelled(inputs, part.labels[chosen], part.raw[chosen], positions=places, groups=groups)


@pytest.fixture
def short(monkeypatch):
    """Demos with a few hundred samples instead of thousands."""
    monkeypatch.setattr(speech, "WORDS", speech.WORDS[:3])
    monkeypatch.setattr(speech, "SENTENCES", 1)
    for module in (vision, speech, text):
        whole = module.task

        def part(whole=whole):
            task = whole()
            return replace(task, train=a_few(task.train, 120), test=a_few(task.test, 60))

        monkeypatch.setattr(module, "task", part)


@pytest.mark.parametrize(("modality", "seen_as"), [("vision", "vision"), ("speech", "spectrogram"), ("text", "text")])
def test_a_short_demo_leaves_numbers_and_a_picture(modality, seen_as, short, tmp_path, capsys):
    folder = demo.main(modality, tmp_path / "run", steps=2)
    results = json.loads((folder / "demo.json").read_text())
    assert results["modality"] == seen_as
    assert results["steps"] == 2
    assert results["test_samples"] == 60
    for name in ("raw", "random", "student", "teacher"):
        for probe in ("knn", "logistic"):
            entry = results["accuracy"][name][probe]
            assert 0 <= entry["mean"] <= 1
            assert 0 < entry["standard_error"] < 0.1
    for probe in ("knn", "logistic"):
        gain = results["gain_over_random"]["student"][probe]
        accuracy = results["accuracy"]
        assert gain["mean"] == pytest.approx(accuracy["student"][probe]["mean"] - accuracy["random"][probe]["mean"])
    data = (folder / "demo.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1100, 620)
    printed = capsys.readouterr().out
    assert f"{100 * results['accuracy']['student']['knn']['mean']:.1f} ±" in printed
    assert results["floor"] in printed

    # The same command again uses what is there, a longer one continues it.
    before = (folder / "metrics.jsonl").read_bytes()
    demo.main(modality, tmp_path / "run", steps=2)
    assert (folder / "metrics.jsonl").read_bytes() == before
    again = json.loads((folder / "demo.json").read_text())
    assert again["accuracy"] == results["accuracy"]
    if modality == "vision":
        demo.main(modality, tmp_path / "run", steps=3)
        assert json.loads((folder / "demo.json").read_text())["steps"] == 3


def test_an_unknown_demo_is_refused():
    with pytest.raises(demo.DemoError, match="no demo 'smell'; choose vision, speech or text"):
        demo.main("smell")


def test_a_broken_extra_is_an_error_that_names_it(monkeypatch, tmp_path):
    (tmp_path / "for_another_numpy.py").write_text("raise AttributeError('_ARRAY_API not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(demo.DemoError, match=r"needs for_another_numpy, which cannot be loaded \(AttributeError"):
        require("for_another_numpy")


def test_a_missing_extra_is_found_before_anything_takes_time(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(demo.DemoError, match=r"needs matplotlib .*pip install"):
        running.run("vision", tmp_path / "run", 2)
    assert not (tmp_path / "run").exists()


def margins():
    spec = importlib.util.spec_from_file_location("check_margins", Path(__file__).with_name("check_margins.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("weak", "strong"), [("student", "teacher"), ("teacher", "student")])
@pytest.mark.parametrize(
    ("modality", "mean", "error", "code"),
    [
        ("vision", 0.251, 0.02, 0),
        ("vision", 0.249, 0.02, 1),
        ("text", 0.06, 0.0199, 0),
        ("text", 0.06, 0.0201, 1),
        ("text", 0.049, 0.001, 1),
    ],
)
def test_margins_of_both_networks(modality, mean, error, code, weak, strong, tmp_path, capsys):
    results = {
        "modality": modality,
        "gain_over_random": {
            weak: {"knn": {"mean": mean, "standard_error": error}},
            strong: {"knn": {"mean": 0.4, "standard_error": 0.01}},
        },
    }
    (tmp_path / "demo.json").write_text(json.dumps(results))
    assert margins().main([str(tmp_path)]) == margins().main([str(tmp_path / "demo.json")]) == code
    assert (f"{modality}: kNN accuracy of the {weak} {100 * mean:+.1f}" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(("mean", "code"), [(0.081, 0), (0.079, 1)])
def test_margins_of_speech_are_those_of_the_student(mean, code, tmp_path):
    gains = {"student": {"knn": {"mean": mean, "standard_error": 0.02}}, "teacher": {"knn": {"mean": 0.0}}}
    (tmp_path / "demo.json").write_text(json.dumps({"modality": "spectrogram", "gain_over_random": gains}))
    assert margins().main([str(tmp_path)]) == code


def test_margins_of_nothing_are_an_error():
    assert margins().main([]) == 2
