"""A run of data2vec 2.0 begins with a released file, by command line; what is no data in such a file is not run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from d2v_fast import presets
from d2v_fast.commands import cli
from d2v_fast.interop import fairseq2
from d2v_fast.models import Data2Vec
from d2v_fast.run.reader import Run

SHORT = {
    "speech": ["--loader.batch-seconds", "2"],
    "vision": ["--loader.batch-size", "4"],
    "text": ["--loader.batch-size", "4"],
}


def data(modality: str, folder: Path) -> Path:
    """A few files of a modality."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(6):
        if modality == "vision":
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
        elif modality == "speech":
            soundfile.write(folder / f"{i}.wav", random.standard_normal(24_000) / 10, 16_000)
        else:
            words = random.choice(["the", "teacher", "sees", "all", "of", "it"], 400)
            (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


class Program:
    """What a file may hold beside tensors: it writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "it ran")


@pytest.mark.parametrize("modality", SHORT)
def test_a_run_starts_from_a_released_file(modality, tmp_path):
    command = ["pretrain", f"{modality}2-tiny", "--data", str(data(modality, tmp_path / "data")), *SHORT[modality]]
    command += ["--steps", "0", "--loader.holdout", "0", "--out", str(tmp_path / "run")]
    model = Data2Vec(presets.NAMES[f"{modality}2-tiny"]().model)
    for parameter in model.student.parameters():
        parameter.detach().add_(0.1)
    state = fairseq2.from_ours(model.student.state_dict(), model.config)
    file = tmp_path / "released.pt"
    torch.save({"model": {**state, "_ema": {}}, "cfg": {"task": None}}, file)
    cli.main([*command, "--init-from", str(file)])
    checkpoint = Run(tmp_path / "run").newest()
    student, teacher = checkpoint.tensors("student"), checkpoint.tensors("teacher")
    wanted = model.student.state_dict()
    assert student.keys() == wanted.keys()
    assert all(torch.equal(student[name], wanted[name]) for name in wanted)
    assert teacher
    assert all(torch.equal(teacher[name], wanted[f"encoder.{name}"]) for name in teacher)


def test_a_program_in_a_released_file_is_not_run(tmp_path, capsys):
    command = ["pretrain", "vision2-tiny", "--data", str(data("vision", tmp_path / "data")), "--steps", "0"]
    torch.save({"model": {}, "cfg": Program(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--out", str(tmp_path / "run"), "--init-from", str(tmp_path / "bad.pt")])
    assert stop.value.code == 2
    assert "holds code, which is not run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    with pytest.raises(SystemExit):
        cli.main([*command, "--mask.views", "0", "--out", str(tmp_path / "run")])
    assert "mask.views is 0, but it must be 1 to 1024" in capsys.readouterr().err
