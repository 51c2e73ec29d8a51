"""data2vec 2.0 from pictures to answers, command by command."""

from __future__ import annotations

import json

import torch
from finetunings import CLASSES, labelled
from PIL import Image

import d2v_fast
from d2v_fast.commands import cli
from d2v_fast.evaluation import read_embedded
from d2v_fast.run.reader import Run

PRESET = ["--loader.batch-size", "8", "--log.every", "1", "--mask.views", "3"]
QUICK = ["--loader.batch-size", "8", "--loader.holdout", "0.25", "--log.validate-every", "2"]


def test_from_pictures_to_answers(tmp_path, capsys):
    photos, run, tuned = tmp_path / "photos", tmp_path / "run", tmp_path / "tuned"
    samples, classes = labelled("vision")
    for i, k in enumerate(classes):
        (photos / CLASSES[k]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(samples.read(i)).save(photos / CLASSES[k] / f"{i}.png")

    drawn = tmp_path / "drawn.png"
    cli.main(["data", "show", str(photos), "--preset", "vision2-tiny", "--picture", str(drawn)])
    assert "as vision2-tiny sees them" in capsys.readouterr().out
    assert len(Image.open(drawn).convert("L").getcolors()) > 16

    pretrain = ["pretrain", "vision2-tiny", "--data", str(photos), *PRESET]
    cli.main([*pretrain, "--out", str(run), "--steps", "2", "--dry-run"])
    assert "3 of each sample" in capsys.readouterr().out
    assert not run.exists()
    cli.main([*pretrain, "--out", str(run), "--steps", "2"])
    assert Run(run).newest().step == 2

    cli.main(["embed", str(run), "--data", str(photos), "--out", str(tmp_path / "features.safetensors")])
    assert read_embedded(tmp_path / "features.safetensors").features.shape == (len(classes), 64)

    further = [*pretrain, "--out", str(tmp_path / "further"), "--steps", "1", "--init-from", str(run)]
    cli.main(further)
    assert Run(tmp_path / "further").newest().step == 1

    cli.main(
        ["finetune", str(run), "--task", "classify", "--data", str(photos), "--out", str(tuned), "--steps", "2", *QUICK]
    )
    cli.main(["predict", str(tuned), "--data", str(photos), "--out", str(tmp_path / "answers.jsonl")])
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == len(classes)
    assert {answer["label"] for answer in answers} <= set(CLASSES)

    cli.main(["export", str(run), "--to", "torch", "--out", str(tmp_path / "program")])
    pictures = torch.randn(3, 1, 8, 8)
    program = torch.export.load(tmp_path / "program" / "model.pt2").module()
    encoder = d2v_fast.load(run, "student").eval()
    with torch.no_grad():
        expected = encoder(pictures)
        torch.testing.assert_close(program(pictures), expected, rtol=1e-4, atol=1e-5)
