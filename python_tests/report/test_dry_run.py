from __future__ import annotations

import pytest
import torch

from d2v_fast.modalities import open_data, open_loader
from d2v_fast.report.dry_run import _one, dry_run
from d2v_fast.training.trainer import Data2VecTrainer


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_what_a_run_would_be(make_config, make_data, tmp_path, modality, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config(modality)
    lines = dict(dry_run(config, make_data(modality)))
    model = Data2VecTrainer(config, data=make_data(modality), out=tmp_path / "run").model
    student = sum(p.numel() for p in model.student.parameters())
    teacher = sum(p.numel() for p in model.teacher.parameters())
    words = lines["parameters"].replace(",", "").replace(";", "").split()
    own, shared = int(words[3]), int(words[8])
    assert int(words[1]) == student
    assert own + shared == teacher
    assert (shared == 0) == (modality == "vision")
    assert "activations" in lines["memory"]
    source = open_data(make_data(modality), config, None)
    assert lines["samples"] == str(len(source))
    with open_loader(config, source) as loader:
        batch = loader.step(0)[0]
        assert f"{loader.steps_per_epoch} per epoch" in lines["steps"]
    assert lines["first batch: inputs"].endswith(str(list(batch.inputs.shape)))
    assert lines["first batch: mask"] == f"bool {list(batch.mask.shape)}"
    assert lines["first batch: rows"] == f"int64 {list(batch.rows.shape)}"
    assert ("first batch: masked_inputs" in lines) == (modality == "text")
    assert list(tmp_path.iterdir()) == []


def test_activation_checkpoints_need_less_memory(make_config, make_data):
    def activations(**overrides) -> float:
        lines = dict(dry_run(make_config("vision", **overrides), make_data("vision")))
        value, unit = lines["memory"].split("activations ")[1].split(",")[0].split()
        return float(value) * {"kB": 1e3, "MB": 1e6}[unit]

    kept = activations(model={"transformer": {"depth": 6, "layer_drop": 0.0}})
    recomputed = activations(
        model={"transformer": {"depth": 6, "layer_drop": 0.0}}, precision={"checkpoint_activations": True}
    )
    assert recomputed < 0.6 * kept


def test_the_first_sample_of_a_batch_is_whole(make_config, make_data):
    config = make_config("text")
    with open_loader(config, open_data(make_data("text"), config, None)) as loader:
        batch = loader.step(0)[0]
    one = _one(batch)
    assert one.inputs.shape == (1, 16)
    assert torch.equal(one.masked_inputs, batch.masked_inputs[:1])
    assert torch.equal(one.rows, one.mask.flatten().nonzero().flatten())
