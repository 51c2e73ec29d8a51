from __future__ import annotations

import json
import shutil
import zlib

import pytest
import torch

import d2v_fast
from d2v_fast import Run
from d2v_fast.data.index import Index
from d2v_fast.errors import CheckpointDamaged, DataError, RunError


@pytest.fixture
def run(make_config, train, tmp_path):
    """A finished run of 8 steps, with checkpoints of the steps 6 and 8."""
    return train(make_config("vision"), tmp_path / "run")


def test_everything_of_a_run(run, make_config):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    read = Run(run)
    assert read.path == run
    assert read.config == make_config("vision")
    assert [line["step"] for line in read.metrics()] == [2, 4, 6, 8]
    assert read.metrics()[-1]["loss"] > 0
    assert read.checkpoints() == [6, 8]
    assert read.newest().step == 8
    assert read.checkpoint(6).step == 6
    assert read.versions == {"d2v_fast": d2v_fast.__version__, "torch": torch.__version__}
    assert read.data["engine"] == "native"
    assert len(read.data["fingerprint"]) > 8
    assert str(run) in repr(read)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_index_of_files_and_of_a_source(run, make_config, make_data, train, tmp_path):
    with pytest.raises(DataError, match="belongs to a DataSource, not to files"):
        Run(run).index()
    text = train(make_config("text", steps=1), tmp_path / "text")
    index = Run(text).index()
    assert isinstance(index, Index)
    assert index.modality == "text"
    (text / "index.bin").unlink()
    with pytest.raises(RunError, match=r"has no index\.bin"):
        Run(text).index()


def test_a_checkpoint_of_its_own(run, make_config):
    folder = run / "checkpoints/step_00000006"
    read = Run(folder)
    assert read.newest().step == 6
    assert read.path == run
    assert read.config.steps == 8
    assert len(read.metrics()) == 4
    alone = shutil.copytree(folder, run.parent / "alone")
    assert Run(alone).newest().step == 6
    assert Run(alone).config == make_config("vision")


def test_a_run_without_its_config_is_read_by_its_checkpoints(run, make_config):
    (run / "config.json").unlink()
    assert Run(run).config == make_config("vision")


def test_errors_are_named(run, tmp_path):
    for path, words in (
        (tmp_path / "nothing", r"nothing is not a run: it has no config\.json"),
        ("~nobody_of_this_name/run", "cannot be read as a run"),
        ("a\0b", "cannot be read as a run"),
        ("x" * 300, "cannot be read as a run"),
    ):
        with pytest.raises(RunError, match=words):
            Run(path)
    read = Run(run)
    with pytest.raises(RunError, match=r"has no checkpoint of step 3, only of \[6, 8\]"):
        read.checkpoint(3)
    (run / "checkpoints/step_00000008/teacher.safetensors").unlink()
    with pytest.raises(CheckpointDamaged, match=r"teacher\.safetensors is missing"):
        read.checkpoint(8)
    assert read.newest().step == 6
    (run / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        _ = Run(run).config
    for step in (6, 8):
        (run / f"checkpoints/step_0000000{step}").rename(run / f"checkpoints/damaged_step_0000000{step}")
    with pytest.raises(RunError, match="no checkpoint but those set aside as damaged: damaged_step_00000006"):
        Run(run).newest()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match="has no checkpoint yet"):
        Run(run).newest()


def test_a_checkpoint_without_a_configuration_is_named(run):
    path = run / "checkpoints/step_00000008/state.json"
    state = json.loads(json.loads(path.read_text())["state"])
    state["config"]["optim"]["momentum"] = 1
    text = json.dumps(state)
    path.write_text(json.dumps({"crc32": zlib.crc32(text.encode()), "state": text}))
    (run / "config.json").unlink()
    with pytest.raises(RunError, match=r"the configuration in .*step_00000008 cannot be used: .*momentum"):
        _ = Run(run).config
