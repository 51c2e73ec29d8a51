"""Predictions for new samples, and how good they are on labelled ones."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from finetunings import CLASSES, labelled
from PIL import Image

import d2v_fast
from d2v_fast import finetuning
from d2v_fast.data import ArraySource
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.run.reader import Run


@pytest.fixture
def tuned(tmp_path, make_finetuning):
    """(task, modality) to a run that has learned."""

    def make(task="classify", modality="vision", **given):
        more = {"steps": 40, "log.validate_every": 20, "optim.lr": 2e-3} | given
        return make_finetuning(tmp_path / f"{task}-{modality}", task, modality, **more).fit()

    return make


def ragged(modality):
    """Samples of different lengths, and the class of each."""
    random = np.random.default_rng(1)
    classes = np.arange(9) % 3
    samples = []
    for i, k in enumerate(classes):
        length = 4000 + 333 * i if modality == "speech" else 150 + 11 * i
        shape = (length,) if modality == "speech" else (length, 3)
        wave = np.arange(length).reshape(-1, *[1] * (len(shape) - 1)) * 0.05
        samples.append((np.sin(wave * 2.0**k) * (k < 2) + random.standard_normal(shape) * 0.1).astype("float32"))
    return samples, classes


def test_classes_with_probabilities(tuned):
    samples, classes = labelled("vision")
    found = finetuning.load(tuned()).predict(samples)
    assert found.values.shape == (48, 3)
    np.testing.assert_allclose(found.values.sum(1), 1)
    records = found.records()
    assert [record["label"] for record in records] == [CLASSES[k] for k in classes]
    assert records[0]["name"] == "0"
    assert records[0]["probability"] == max(records[0]["probabilities"].values())
    assert list(records[0]["probabilities"]) == sorted(CLASSES)


def test_values_in_the_unit_of_the_labels(tuned):
    samples, classes = labelled("vision")
    found = finetuning.load(tuned("regress")).predict(samples)
    assert np.abs(found.values[:, 0] - (10 + 2.5 * classes)).max() < 1.5
    assert found.records()[3] == {"name": "3", "value": found.values[3, 0]}


def test_tags(tuned):
    samples, classes = labelled("vision")
    records = finetuning.load(tuned("tag", **{"steps": 120, "task.metric": "loss"})).predict(samples).records()
    for record, k in zip(records, classes, strict=True):
        assert set(record["labels"]) == {CLASSES[k]} | ({"odd"} if k % 2 else set())


def test_it_is_the_best_checkpoint(tuned):
    run = tuned(**{"optim.lr": 1e-9, "task.metric": "f1"})
    assert Run(run).best().step == 20  # the first of equal ones
    loaded = finetuning.load(run)
    assert loaded.step == 20
    weights = Run(run).best().tensors("student")
    assert torch.equal(loaded.task.network.head.output.weight.cpu(), weights["head.output.weight"])
    assert finetuning.load(run / "checkpoints" / "step_00000040").step == 40


@pytest.mark.parametrize("modality", ["speech", "series"])
def test_neighbours_in_a_batch_change_nothing(tuned, modality):
    """Samples of different lengths: one at a time, eight at a time and in another order."""
    loaded = finetuning.load(tuned(modality=modality), device="cpu")
    samples, classes = ragged(modality)
    alone = loaded.predict(samples, batch_size=1).values
    np.testing.assert_allclose(loaded.predict(samples, batch_size=8).values, alone, rtol=0, atol=1e-6)
    same = loaded.predict([*samples[::-1], *samples], batch_size=8).values
    np.testing.assert_allclose(same, np.concatenate([alone[::-1], alone]), rtol=0, atol=1e-6)
    names = [CLASSES[k] for k in classes]
    judged = [loaded.evaluate(samples, labels=names, batch_size=size).metrics for size in (1, 8)]
    assert judged[0] == pytest.approx(judged[1], rel=0, abs=1e-5)


def test_files(tmp_path, tuned):
    samples, classes = labelled("vision")
    folder = tmp_path / "new"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(samples.read(i)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    loaded = finetuning.load(tuned())
    found = loaded.predict(folder)
    table = {record["name"]: record for record in found.records()}
    assert [table[f"{i}.png"]["label"] for i in range(3)] == [CLASSES[k] for k in classes[:3]]
    assert "label" not in table["broken.png"]
    assert table["broken.png"]["error"]
    one = loaded.predict([str(folder / "1.png")])
    np.testing.assert_allclose(one.values[0], found.values[found.names.index("1.png")], atol=1e-6)

    lines = [json.loads(line) for line in found.write(tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == found.records()
    with open(found.write(tmp_path / "a.csv"), newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows["0.png"])[:3] == ["name", "label", "probability"] or "error" in list(rows["0.png"])[:3]
    assert rows["0.png"]["label"] == CLASSES[classes[0]]
    assert float(rows["0.png"][f"p:{CLASSES[classes[0]]}"]) == table["0.png"]["probability"]
    assert rows["broken.png"]["error"]
    with pytest.raises(ConfigError, match=r"a\.txt: predictions are written as \.jsonl or \.csv"):
        found.write(tmp_path / "a.txt")


def test_evaluation(tuned):
    samples, classes = labelled("vision", 30)
    names = [CLASSES[k] for k in classes]
    names[0] = CLASSES[(classes[0] + 1) % 3]  # a wrong label
    result = finetuning.load(tuned()).evaluate(samples, labels=names, draws=200)
    assert result.samples == 30
    assert result.metrics["accuracy"] == pytest.approx(29 / 30)
    low, high = result.intervals["accuracy"]
    assert low < result.metrics["accuracy"] <= high <= 1
    assert result.confusion.sum() == 30
    assert np.trace(result.confusion) == 29
    assert json.loads(json.dumps(result.as_dict()))["confusion"] == result.confusion.tolist()
    with pytest.raises(DataError):
        finetuning.load(tuned()).evaluate(samples, labels=["other"] * 30)


def test_intervals_over_groups_are_wider(tuned):
    samples, classes = labelled("vision", 30)
    names = [CLASSES[k] for k in classes]
    for i in range(6):  # all of one group are wrong
        names[i] = CLASSES[(classes[i] + 1) % 3]
    loaded = finetuning.load(tuned())
    single = loaded.evaluate(samples, labels=names, draws=300).intervals["accuracy"]
    grouped = loaded.evaluate(samples, labels=names, groups=[f"g{i // 6}" for i in range(30)], draws=300)
    assert np.ptp(grouped.intervals["accuracy"]) > 1.3 * np.ptp(single)


@pytest.mark.parametrize(("task", "name"), [("regress", "mae"), ("tag", "map")])
def test_evaluation_of_other_tasks(tuned, task, name):
    samples, classes = labelled("vision", 12)
    labels = {"regress": (10 + 2.5 * classes).tolist(), "tag": [[CLASSES[k]] for k in classes]}[task]
    result = finetuning.load(tuned(task)).evaluate(samples, labels=labels, draws=50)
    assert result.confusion is None
    assert result.metrics[name] is not None
    low, high = result.intervals[name]
    assert low <= result.metrics[name] <= high


def test_only_a_fine_tuning_predicts(pretrained, tmp_path):
    with pytest.raises(RunError, match=r"is no fine-tuning: d2v_fast\.load takes the encoder of a pretraining run"):
        finetuning.load(pretrained("vision"))


def test_the_public_names(tmp_path, pretrained):
    samples, classes = labelled("vision")
    out = d2v_fast.finetune(
        pretrained("vision"),
        "classify",
        data=samples,
        labels=[CLASSES[k] for k in classes],
        out=tmp_path / "out",
        recipe="classify-tiny",
        steps=2,
        loader={"batch_size": 4},
    )
    assert Run(out).config.loader.batch_size == 4
    assert len(finetuning.load(out).predict([samples.read(0)])) == 1
    assert isinstance(samples, ArraySource)
