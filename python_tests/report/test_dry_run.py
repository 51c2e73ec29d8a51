from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from d2v_fast.masking import InverseBlockMask
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.models import Encoder
from d2v_fast.report.dry_run import _one, dry_run
from d2v_fast.training.trainer import Data2VecTrainer


@pytest.mark.parametrize("modality", ["speech", "vision", "text", "speech2", "vision2", "text2"])
def test_what_a_run_would_be(make_config, make_data, tmp_path, modality, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config(modality)
    trainer = Data2VecTrainer(config, data=make_data(modality), out=tmp_path / "run")
    lines, model = dict(dry_run(trainer)), trainer.model
    student = sum(p.numel() for p in model.student.parameters())
    teacher = sum(p.numel() for p in model.teacher.parameters())
    words = lines["parameters"].replace(",", "").replace(";", "").split()
    own, shared = int(words[3]), int(words[8])
    assert int(words[1]) == student
    assert own + shared == teacher
    assert (shared == 0) == modality.startswith("vision")
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
    if modality.endswith("2"):
        assert lines["first batch: kept"] == f"int64 {list(batch.kept.shape)}"
        assert lines["first batch: views"].startswith("2 of each sample")
        assert lines["first batch: encoded"].startswith(f"{len(batch.kept) / batch.mask.numel():.1%}")
    assert list(tmp_path.iterdir()) == []


def test_activation_checkpoints_need_less_memory(make_config, make_data):
    def activations(**overrides) -> float:
        return _activations(make_config("vision", **overrides), make_data)

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


def test_views_are_counted(make_config, make_data, tmp_path):
    decoder = {"kind": "DecoderConfig", "dim": 32, "layers": 1, "kernel": 3, "groups": 4}
    mask = InverseBlockMask(ratio=0.6, block=2, views=3)
    config = make_config("vision", **{"model.head": decoder, "mask": mask})
    lines = dict(dry_run(Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run", device="cpu")))
    assert lines["first batch: views"] == "3 of each sample, for one pass of the teacher"
    assert lines["first batch: encoded"] == "37.5% of the positions of each view"  # 6 of 16
    assert lines["first batch: kept"] == f"int64 [{3 * 3 * 6}]"
    assert lines["first batch: masked"].startswith("62.5%")
    with open_loader(config, open_data(make_data("vision"), config, None)) as loader:
        one = _one(loader.step(0)[0])
    assert torch.equal(one.kept, (~one.mask).flatten().nonzero().flatten())
    assert one.mask.shape == (3, 16)
    more = replace(config, mask=replace(mask, views=6))
    assert _activations(more, make_data) > 1.5 * _activations(config, make_data)


def _activations(config, make_data) -> float:
    """Bytes that the dry run expects."""
    memory = dict(dry_run(Data2VecTrainer(config, data=make_data("vision"), out="nowhere", device="cpu")))["memory"]
    value, unit = memory.split("activations ")[1].split(",")[0].split()
    return float(value) * {"kB": 1e3, "MB": 1e6}[unit]


def test_all_micro_batches_that_the_loader_holds_are_counted(make_config, make_data):
    def held(**loader) -> str:
        config = make_config("vision", loader={"batch_size": 3, **loader})
        return dict(dry_run(Data2VecTrainer(config, data=make_data("vision"), out="nowhere", device="cpu")))["batches"]

    assert held(accumulation=2, prefetch=2).split(": ")[1].startswith("6 micro-batches of ")
    assert held(accumulation=1, prefetch=1).split(": ")[1].startswith("2 micro-batches of ")
    value, unit, *_ = held(accumulation=2, prefetch=2).removeprefix("about ").split()
    # 6 x 3 pictures of 3 x 16 x 16 in float32, and their masks
    assert float(value) * {"kB": 1e3}[unit.rstrip(":")] == pytest.approx(6 * 3 * 3 * 16 * 16 * 4, rel=0.05)


def test_the_kernel_that_the_run_uses_is_counted(make_config, make_data, monkeypatch):
    """The estimate of a run with precision.attention was made with another kernel."""
    seen = []
    forward = Encoder.forward_layers

    def watched(self, *arguments, **options):
        seen.append(self.attention)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Encoder, "forward_layers", watched)
    config = make_config("text", precision={"attention": "sdpa"})
    dry_run(Data2VecTrainer(config, data=make_data("text"), out="nowhere", device="cpu"))
    assert set(seen) == {"sdpa"}


@pytest.mark.parametrize(
    ("overrides", "remarks"),
    [
        ({"steps": 8}, []),
        (
            {"steps": 1},
            ["the run ends before it has seen every sample once; one epoch needs --steps 2", "the teacher's"],
        ),
        (
            {"steps": 4},
            ["the teacher's decay ends at 0.972, not at ema.end 0.99: ema.anneal_steps is 5, more than the steps"],
        ),
        (
            {"steps": 4, "ema": {"start": 0.99}},
            ["4 steps are short for this teacher: at the end 96% of it will still be"],
        ),
        ({"steps": 20, "ema": {"start": 0.99}}, []),
    ],
)
def test_a_run_that_is_too_short_is_remarked(make_config, make_data, overrides, remarks):
    trainer = Data2VecTrainer(make_config("vision", **overrides), data=make_data("vision"), out="nowhere", device="cpu")
    told = [value for name, value in dry_run(trainer) if name == "remark"]
    assert len(told) == len(remarks)
    assert all(one.startswith(expected) for one, expected in zip(told, remarks, strict=True))
