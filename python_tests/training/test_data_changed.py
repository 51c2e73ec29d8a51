"""A run that goes on with a corpus that grew or changed, because it was told to."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from index_lines import as_lines
from PIL import Image

from d2v_fast import finetune
from d2v_fast.commands import cli
from d2v_fast.config_json import with_overrides
from d2v_fast.data import DataError
from d2v_fast.errors import RunError
from d2v_fast.files import write_whole
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.run import checkpoint, data_changes
from d2v_fast.run.reader import Run
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.trainer import Data2VecTrainer

WORDS = "the cat sat on a mat and saw the dogs run far away over the hills "


class Killed(BaseException):
    """The process is gone."""


def add(folder, kind, first, count):
    folder.mkdir(exist_ok=True)
    for i in range(first, first + count):
        if kind == "text":
            (folder / f"{i:02}.txt").write_text(f"Document {i}. {WORDS * (2 + i % 3)}")
        else:
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02}.png")


def go(make_config, kind, data, out, steps, **arguments):
    settings = {"steps": steps, "checkpoint": {"every": 2, "keep": 3}, "log": {"every": 2}}
    config = with_overrides(make_config(kind), settings)
    Data2VecTrainer(config, data=data, out=out, device="cpu").fit(**arguments)
    return config


@pytest.fixture(params=["vision", "text"])
def grown(request, make_config, tmp_path):
    """(kind, data, run): three steps with 12 files, and then there are 17 and one is gone."""
    kind, data, run = request.param, tmp_path / "data", tmp_path / "run"
    add(data, kind, 0, 12)
    go(make_config, kind, data, run, 3)
    add(data, kind, 12, 5)
    (data / ("03.txt" if kind == "text" else "03.png")).unlink()
    return kind, data, run


def kept(run):
    names = ("index.bin", "index.jsonl", "tokens.bin", "tokenizer.json")
    return {name: (run / name).read_bytes() for name in names if (run / name).exists()}


def test_the_run_goes_on_with_what_there_is_now(
    grown, make_config, tmp_path, assert_same_run, read_lines, capsys, monkeypatch
):
    kind, data, run = grown
    before, old = kept(run), Run(run).data["fingerprint"]
    with pytest.raises(DataError, match=r"5 new .*--data-changed \(data_changed=True\)"):
        go(make_config, kind, data, run, 8)
    assert kept(run) == before
    taken, losses = [], PretrainingTask.losses

    def watched(self, batch, step, micro_batch):
        taken.append(batch.inputs.clone())
        return losses(self, batch, step, micro_batch)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTask, "losses", watched)
        config = go(make_config, kind, data, run, 8, data_changed=True)
    said = capsys.readouterr().err
    assert "goes on with other data after step 3" in said

    after = kept(run)
    assert after["index.bin"] != before["index.bin"]
    assert after.get("tokenizer.json") == before.get("tokenizer.json")
    assert len(Run(run).index().names) == 16
    assert [name for name in os.listdir(run) if name.startswith(".data")] == []
    new = Run(run).data["fingerprint"]
    assert new != old
    source = open_data(data, config, run)
    [change] = [one for line in read_lines(run) for one in line.get("data_changed", ())]
    assert change["after_step"] == 3
    assert (change["fingerprint_before"], change["fingerprint_after"]) == (old, new)
    assert change["samples_after"] == len(source) > change["samples_before"] > 0
    assert [line["step"] for line in read_lines(run) if "data_changed" in line] == [4]

    # The samples of step 4 are those that a run which had this data from the beginning would take there.
    with open_loader(config, source) as loader:
        assert all(torch.equal(batch.inputs, seen) for batch, seen in zip(loader.step(3), taken[:2], strict=True))

    # Later starts need no flag, and an interruption changes no bit.
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step_00000008")
    go(make_config, kind, data, again, 8)
    assert_same_run(run, again, 8)


def test_data_that_has_not_changed_is_told_to_be_so(make_config, tmp_path, assert_same_run, capsys):
    data = tmp_path / "data"
    add(data, "text", 0, 12)
    for out, arguments in (("one", {}), ("other", {"data_changed": True})):
        go(make_config, "text", data, tmp_path / out, 3)
        go(make_config, "text", data, tmp_path / out, 6, **arguments)
    assert "has not changed" in capsys.readouterr().err
    assert kept(tmp_path / "one") == kept(tmp_path / "other")
    assert not (tmp_path / "other" / data_changes.RECORD).exists()
    assert_same_run(tmp_path / "one", tmp_path / "other", 6)


@pytest.mark.parametrize(
    ("place", "earlier"),
    [("rename", False), (2, False), (3, False), ("after", False), ("rename", True), ("unlink", True), (2, True)],
)
def test_a_kill_leaves_the_old_or_the_new_state(make_config, tmp_path, monkeypatch, place, earlier, assert_same_run):
    """Also where an earlier version wrote the index, under another name."""
    data, run, whole = tmp_path / "data", tmp_path / "run", tmp_path / "whole"
    add(data, "text", 0, 12)
    go(make_config, "text", data, run, 3)
    if earlier:
        as_lines(Run(run).index(), run / "index.jsonl")
        (run / "index.bin").unlink()
    shutil.copytree(run, whole)
    before = kept(run)
    shutil.copytree(data, tmp_path / "old")
    add(data, "text", 12, 5)
    go(make_config, "text", data, whole, 6, data_changed=True)

    replace, calls = os.replace, iter(range(1, 100))

    def moved(source, target):
        if data_changes._CHANGED in str(source) and next(calls) == place:
            raise Killed
        replace(source, target)

    def killed(*_, **__):
        raise Killed

    def unlinked(path, **options):
        unlink(path, **options)
        if path.name == "index.jsonl":
            raise Killed

    unlink = type(run).unlink
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", moved)
        if place == "rename":
            patch.setattr(os, "rename", killed)
        elif place == "unlink":
            patch.setattr(type(run), "unlink", unlinked)
        elif place == "after":
            patch.setattr("d2v_fast.training.fit.Fit._run", killed)
        with pytest.raises(Killed):
            go(make_config, "text", data, run, 6, data_changed=True)
    if place == "rename":
        assert kept(run) == before
        with pytest.raises(DataError, match="--data-changed"):
            go(make_config, "text", data, run, 6)
        shutil.copytree(run, tmp_path / "back")
        go(make_config, "text", tmp_path / "old", tmp_path / "back", 6)  # the old one is whole
        go(make_config, "text", data, run, 6, data_changed=True)
    else:
        go(make_config, "text", data, run, 6)
    assert_same_run(whole, run, 6)
    assert kept(run) == kept(whole)
    assert "index.jsonl" not in kept(run)


def test_two_changes_and_back_again(make_config, make_data, tmp_path):
    """Sources of one's own; the second change comes before a step was made with the first."""
    kind = type(make_data("vision"))
    first = make_data("vision")
    samples = [first.read(i) for i in range(len(first))]
    larger, largest = kind("vision", [*samples, samples[0]]), kind("vision", [*samples, *samples[:4]])
    out = tmp_path / "run"
    go(make_config, "vision", first, out, 2)
    with pytest.raises(DataError, match=r"samples was 16, is 17.*--data-changed"):
        go(make_config, "vision", larger, out, 4)
    trainer = Data2VecTrainer(with_overrides(make_config("vision"), {"steps": 2}), data=larger, out=out, device="cpu")
    trainer.fit(data_changed=True)  # no step is left
    assert [change.samples_after for change in data_changes.read_changes(out)] == [17]
    go(make_config, "vision", first, out, 2, data_changed=True)
    assert data_changes.read_changes(out) == []
    go(make_config, "vision", larger, out, 4, data_changed=True)
    go(make_config, "vision", largest, out, 6, data_changed=True)
    changes = data_changes.read_changes(out)
    assert [(one.after_step, one.samples_before, one.samples_after) for one in changes] == [(2, 16, 17), (4, 17, 20)]
    shutil.rmtree(checkpoint.newest(out / "checkpoints").folder)
    with pytest.raises(DataError, match="--data-changed"):
        go(make_config, "vision", larger, out, 6)


def test_what_cannot_be_is_refused(make_config, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    add(data, "text", 0, 12)
    with pytest.raises(RunError, match="no checkpoint to continue from with other data: leave out --data-changed"):
        go(make_config, "text", data, run, 3, data_changed=True)
    go(make_config, "text", data, run, 3)  # the folder is still free
    before = kept(run)
    with pytest.raises(DataError):
        go(make_config, "text", tmp_path / "nothing", run, 6, data_changed=True)
    assert kept(run) == before
    write_whole(run / data_changes.RECORD, "{")
    with pytest.raises(RunError, match=r"data_changes\.json is damaged"):
        go(make_config, "text", data, run, 6)


def test_the_command_and_a_fine_tuning(tmp_path, read_lines):
    data, run, fine = tmp_path / "data", tmp_path / "run", tmp_path / "fine"
    for name in "pq":
        data.mkdir(exist_ok=True)
        add(data / name, "vision", 0 if name == "p" else 20, 8)
    words = ["vision-tiny", "--data", str(data), "--out", str(run), "--loader.batch-size", "4"]
    cli.main(["pretrain", *words, "--steps", "2"])
    given = {"data": data, "out": fine, "loader": {"batch_size": 4}}
    finetune(run, "classify", steps=2, **given)
    add(data / "q", "vision", 28, 3)
    cli.main(["pretrain", *words, "--steps", "4", "--data-changed"])
    assert json.loads((run / data_changes.RECORD).read_text())[0]["samples_after"] == 19
    with pytest.raises(RunError, match="--data-changed"):
        finetune(run, "classify", steps=4, **given)
    finetune(run, "classify", steps=4, data_changed=True, **given)
    assert [(c.samples_before, c.samples_after) for c in data_changes.read_changes(fine)] == [(16, 19)]
    finetune(run, "classify", steps=5, **given)
    assert sum("data_changed" in line for line in read_lines(fine)) == 1
