"""`d2v-fast finetune`, `predict`, `evaluate`: from class folders and tables to files of answers."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from finetunings import CLASSES, labelled
from PIL import Image
from tiny_runs import _config

import d2v_fast
from d2v_fast.commands import cli
from d2v_fast.run.reader import Run
from d2v_fast.training.trainer import Data2VecTrainer

QUICK = ["--loader.batch-size", "4", "--loader.holdout", "0.25", "--log.validate-every", "30", "--optim.lr", "2e-3"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures in a folder for each class."""
    folder = tmp_path_factory.mktemp("photos")
    samples, classes = labelled("vision")
    for i, k in enumerate(classes):
        (folder / CLASSES[k]).mkdir(exist_ok=True)
        Image.fromarray(samples.read(i)).save(folder / CLASSES[k] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos):
    """A pretraining run of one step."""
    config = _config("vision", steps=1)
    return Data2VecTrainer(config, data=photos, out=tmp_path_factory.mktemp("run") / "run").fit()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, photos, run):
    """A classifier of the photos."""
    out = tmp_path_factory.mktemp("tuned") / "out"
    cli.main(
        ["finetune", str(run), "--task", "classify", "--data", str(photos), "--out", str(out), "--steps", "60", *QUICK]
    )
    return out


def refused(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code, capsys.readouterr().err.splitlines()[-1]


def test_the_same_command_continues_without_the_pretrained_run(tmp_path, photos, run, tuned, capsys):
    assert Run(tuned).newest().step == 60
    copy, out = shutil.copytree(run, tmp_path / "run"), tmp_path / "out"
    command = ["finetune", str(copy), "--task=classify", "--data", str(photos), "--out", str(out), *QUICK]
    cli.main([*command, "--steps", "2"])
    assert capsys.readouterr().out == f"{out}\n"
    shutil.rmtree(copy)
    cli.main([*command, "--steps", "3"])
    assert Run(out).newest().step == 3


def test_predictions_in_a_file(tmp_path, photos, tuned, capsys):
    cli.main(["predict", str(tuned), "--data", str(photos), "--out", str(tmp_path / "a.jsonl")])
    assert capsys.readouterr().out == f"{tmp_path / 'a.jsonl'}: 48 predictions, 0 samples that cannot be used\n"
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert sum(record["label"] == record["name"].split("/")[0] for record in records) >= 46
    cli.main(["predict", str(tuned), "--data", str(photos), "--out", str(tmp_path / "a.csv")])
    with open(tmp_path / "a.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [record["label"] for record in records]


def test_an_evaluation(tmp_path, photos, tuned, capsys):
    cli.main(["evaluate", str(tuned), "--data", str(photos), "--out", str(tmp_path / "numbers.json")])
    shown = capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["samples"] == 48
    assert numbers["classes"] == sorted(CLASSES)
    assert f"{numbers['metrics']['accuracy']:.4f}" in shown
    assert np.sum(numbers["confusion"]) == 48
    for word in ("48 samples", "accuracy", "95 % interval", "taken for", *CLASSES):
        assert word in shown


def test_texts_from_a_table(tmp_path, capsys):
    """The tokenizer of the pretrained run goes along; each row is a sample."""
    random = np.random.default_rng(0)
    words = {"good": ["fine", "lovely", "great"], "bad": ["poor", "awful", "sad"]}
    rows = [
        {"text": " ".join(random.choice(words[label], 6)), "label": label}
        for label in ("good", "bad")
        for _ in range(20)
    ]
    (tmp_path / "corpus.txt").write_text("\n\n".join(row["text"] for row in rows))
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Data2VecTrainer(_config("text", steps=1), data=tmp_path / "corpus.txt", out=tmp_path / "run").fit()
    out, table = tmp_path / "out", str(tmp_path / "table.jsonl")
    cli.main(["finetune", str(tmp_path / "run"), "--data", table, "--out", str(out), "--steps", "60", *QUICK])
    shutil.rmtree(tmp_path / "run")
    cli.main(["predict", str(out), "--data", table, "--out", str(tmp_path / "answers.jsonl")])
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)) >= 38
    records = d2v_fast.load(out).predict(["a lovely great day", "awful sad poor"]).records()
    assert [record["label"] for record in records] == ["good", "bad"]


def test_a_checkpoint_of_a_run_with_a_tokenizer(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"text {i} of some" for i in range(40)))
    rows = [{"text": f"text {i} of some", "target": i} for i in range(40)]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Data2VecTrainer(_config("text", steps=1), data=tmp_path / "corpus.txt", out=tmp_path / "run").fit()
    out, source = tmp_path / "out", tmp_path / "run" / "checkpoints" / "step_00000001"
    data = str(tmp_path / "table.jsonl")
    cli.main(["finetune", str(source), "--task=regress", "--data", data, "--out", str(out), "--steps", "2", *QUICK])
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "run" / "tokenizer.json").read_bytes()


def test_a_dry_run_writes_nothing(tmp_path, photos, run, capsys):
    command = ["finetune", str(run), "--data", str(photos), "--out", str(tmp_path / "x"), *QUICK, "--steps", "1000"]
    cli.main([*command, "--dry-run", "--encoder.frozen"])
    shown = capsys.readouterr().out
    for words in ("nothing was written", "36 samples of 3 classes", "12 samples", "high", "per epoch", "are trained"):
        assert words in shown
    for words in ("time", "34 validations included", "memory", "activations", "on the disk"):
        assert words in shown
    assert not (tmp_path / "x").exists()


def test_a_dry_run_counts_what_is_left_out(tmp_path, photos, run, capsys):
    rows = [{"path": f"{path.parent.name}/{path.name}", "label": path.parent.name} for path in photos.rglob("*.png")]
    for row in rows[:5]:
        row["label"] = None
    (photos / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["finetune", str(run), "--data", str(photos / "table.jsonl"), "--out", str(tmp_path / "x"), *QUICK]
    cli.main([*command, "--dry-run", "--from-scratch"])
    (photos / "table.jsonl").unlink()
    assert "5 labels: has no label" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_done_is_one_line(tmp_path, photos, run, tuned, capsys):
    out = str(tmp_path / "x")
    cases = [
        (["finetune", "--task", "classify"], "the run comes first: d2v-fast finetune RUN"),
        (["finetune", str(run), "--task", "x", "--data", str(photos), "--out", out], "there is no task 'x'"),
        (["finetune", str(run), "--data", str(photos), "--out", str(run)], "is a pretraining run"),
        (["finetune", str(run), "--out", out], "missing --data"),
        (["finetune", str(run), "--data", str(photos / "low"), "--out", out], "data: "),
        (["finetune", str(run), "--data", str(photos), "--out", out, "--optim.lr", "-1"], "optim.lr is -1.0"),
        (["predict", "--data", "x", "--out", "y"], "the run comes first: d2v-fast predict OUT"),
        (["predict", str(tuned), "--data", str(photos), "--out", "y.txt"], "written as .jsonl or .csv"),
        (["predict", str(tuned), "--data", str(photos), "--out", "no/y.csv"], "there is no folder no"),
        (["predict", str(run), "--data", str(photos), "--out", "y.csv"], "is no fine-tuning"),
        (["evaluate", str(tuned), "--data", str(tmp_path / "none")], "none"),
    ]
    for arguments, text in cases:
        code, line = refused(capsys, arguments)
        assert (code, text in line) == (2, True), (arguments, line)
    assert not (tmp_path / "x").exists()


def test_help(capsys, run):
    cli.main(["finetune"])
    shown = capsys.readouterr().out
    for words in ("tasks: classify, regress, tag", "word error rate", "ImageNet-1k, data2vec 1.0", "glue2-cola"):
        assert words in shown
    cli.main(["pretrain"])
    assert "usage: d2v-fast pretrain PRESET" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["finetune", str(run), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--encoder.layer-decay", "--task.patience", "--head.pooling", "--group", "--validation"):
        assert option in shown
