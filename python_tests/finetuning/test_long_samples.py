"""Predictions for recordings that are longer than those of the training: windows, and one answer to all of them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from finetunings import CLASSES, labelled

from d2v_fast import finetuning
from d2v_fast.commands import cli
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, pretrained):
    """Task to a run on series that has learned; made once."""
    from finetunings import QUICK

    from d2v_fast.finetuning.finetune import Finetuning
    from d2v_fast.finetuning.sets import LabelledData
    from d2v_fast.finetuning.settings import settle

    made = {}

    def make(task="classify"):
        if task not in made:
            samples, classes = labelled("series")
            labels = {
                "classify": [CLASSES[k] for k in classes],
                "regress": (classes * 2.5 + 10).tolist(),
                "tag": [[CLASSES[k]] for k in classes],
            }[task]
            out = tmp_path_factory.mktemp(task) / "run"
            more = QUICK | {"steps": 60, "log.validate_every": 60, "optim.lr": 2e-3}
            config = settle(pretrained("series"), task, more, out)
            made[task] = Finetuning(config, LabelledData(data=samples, labels=labels), out, device="cpu").fit()
        return made[task]

    return make


def recording(classes, seconds=20):
    """One recording of several classes after each other, 50 samples a second, and noise."""
    random = np.random.default_rng(4)
    parts = []
    for k in classes:
        wave = np.arange(seconds * 50)[:, None] * 0.05
        parts.append(np.sin(wave * 2.0**k) * (k < 2) + random.standard_normal((seconds * 50, 3)) * 0.1)
    return np.concatenate(parts).astype(np.float32)


def test_an_answer_for_each_window_and_one_for_all(tuned, tmp_path):
    loaded = finetuning.load(tuned(), device="cpu")
    samples = [recording([0, 1, 0]), labelled("series")[0].read(1)]
    found = loaded.predict(samples, overlap=2)
    (long, short) = found.records()
    assert "windows" not in short
    windows = long["windows"]
    assert [window["begin"] for window in windows[1:]] == [window["end"] for window in windows[:-1]]
    assert windows[0]["begin"] == 0
    assert windows[-1]["end"] == pytest.approx(60, abs=0.5)
    for window in windows:
        if window["end"] < 19 or window["begin"] > 41:
            assert window["label"] == "low"
        elif window["begin"] > 21 and window["end"] < 39:
            assert window["label"] == "middle"
    lengths = np.array([window["end"] - window["begin"] for window in windows])
    shares = np.array([list(window["probabilities"].values()) for window in windows])
    mean = (shares * lengths[:, None]).sum(0) / lengths.sum()
    np.testing.assert_allclose(list(long["probabilities"].values()), mean, rtol=1e-3)
    assert long["label"] == "low"
    rows = list(csv.DictReader(found.write(tmp_path / "a.csv").open(newline="")))
    assert "windows" not in rows[0]
    assert json.loads(found.write(tmp_path / "a.jsonl").read_text().splitlines()[0]) == long


@pytest.mark.parametrize("task", ["classify", "regress", "tag"])
def test_the_batch_changes_nothing(tuned, task):
    loaded = finetuning.load(tuned(task), device="cpu")
    samples = [recording([0]), labelled("series")[0].read(0), recording([1, 2])[:-11], recording([2], 9)]
    alone = loaded.predict(samples, batch_size=1)
    for size in (3, 32):
        other = loaded.predict(samples, batch_size=size)
        np.testing.assert_allclose(other.values, alone.values, rtol=0, atol=1e-5)
        assert other.windows.keys() == alone.windows.keys() == {0, 2, 3}
        for i in alone.windows:
            np.testing.assert_allclose(other.windows[i].values, alone.windows[i].values, rtol=0, atol=1e-5)
    if task == "regress":
        one = alone.windows[2]
        lengths = one.times[:, 1] - one.times[:, 0]
        assert alone.values[2, 0] == pytest.approx(float((one.values[:, 0] * lengths).sum() / lengths.sum()))


def test_evaluation_takes_windows_too(tuned):
    loaded = finetuning.load(tuned(), device="cpu")
    samples = [recording([k], 10 + i) for i in range(3) for k in range(3)]
    names = [CLASSES[k] for _ in range(3) for k in range(3)]
    result = loaded.evaluate(ArraySource("series", samples), labels=names, draws=20, window=4, overlap=1)
    assert result.metrics["accuracy"] == 1.0
    with pytest.raises(ConfigError, match="overlap is"):
        loaded.evaluate(samples, labels=names, window=4, overlap=4)


def test_a_broken_long_recording_gets_an_error(tuned):
    bad = recording([0, 1])
    bad[1500, 2] = np.nan
    found = finetuning.load(tuned(), device="cpu").predict([recording([0]), bad])
    assert "gap in channel 2" in found.records()[1]["error"]
    assert found.records()[0]["label"] == "low"
    assert np.isnan(found.values[1]).all()


def test_on_the_command_line(tuned, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    np.save(folder / "day.npy", recording([0, 2]))
    command = ["predict", str(tuned()), "--data", str(folder), "--out", str(tmp_path / "a.jsonl")]
    cli.main([*command, "--window", "6", "--overlap", "2"])
    told = capsys.readouterr().err
    assert (
        "samples longer than 6 s are taken in windows of that length, which overlap by 2 s (the first is day.npy"
        in told
    )
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert len(line["windows"]) == 10
    cli.main([*command, "--window", "0"])
    assert "windows" not in json.loads((tmp_path / "a.jsonl").read_text())
    with pytest.raises(SystemExit):
        cli.main([*command, "--window", "-3"])
    assert "window is -3.0: seconds (of text: tokens), 0 or more" in capsys.readouterr().err
