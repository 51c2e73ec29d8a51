"""Training runs of the tiny presets on a GPU: the CPU's losses, 16-bit formats, no step that waits for the device."""

from __future__ import annotations

import json

import pytest
import torch

from d2v_fast.batch import Batch
from d2v_fast.modalities.opening import open_data, open_loader
from d2v_fast.training.log_line import LogLines
from d2v_fast.training.prefetch import Prefetch
from d2v_fast.training.trainer import Data2VecTrainer

CPU = torch.device("cpu")
MODALITIES = ["speech", "vision", "text"]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_losses_are_those_of_the_cpu(device, tiny, sources, tmp_path, modality):
    """One more step and float32's rounding is as large as what a step learns: so the first steps only."""
    config = tiny(modality)
    runs = {}
    for name, where in (("here", device), ("cpu", CPU)):
        trainer = Data2VecTrainer(config, data=sources[modality], out=tmp_path / name, device=where)
        assert next(trainer.model.parameters()).device.type == where.type
        runs[name] = lines(trainer.fit())
    for field, tolerance in (("loss", 1e-3), ("grad_norm", 1e-2), ("target_std", 1e-3), ("lr", 0), ("ema_decay", 0)):
        ours, wanted = ([line[field] for line in runs[name]] for name in ("here", "cpu"))
        assert len(ours) == 6
        assert ours == pytest.approx(wanted, rel=tolerance or 1e-12), field


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_run_that_was_interrupted_goes_on(device, tiny, sources, tmp_path, modality):
    """As one that was not, but for the order in which a GPU adds up gradients."""
    constant = {"schedule": "tri_stage", "warmup": 0.0, "hold": 1.0}
    for name, stops in (("parts", (3, 6)), ("whole", (6,))):
        for steps in stops:
            config = tiny(modality, steps=steps, optim=constant)
            Data2VecTrainer(config, data=sources[modality], out=tmp_path / name, device=device).fit()
    ours, wanted = lines(tmp_path / "parts"), lines(tmp_path / "whole")
    assert [line["step"] for line in ours] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in wanted], rel=1e-3)


@pytest.mark.parametrize("modality", MODALITIES)
def test_bfloat16(device, tiny, sources, tmp_path, modality):
    losses = {}
    for name in ("float32", "bfloat16"):
        config = tiny(modality, precision={"autocast": name})
        run = Data2VecTrainer(config, data=sources[modality], out=tmp_path / name, device=device).fit()
        losses[name] = [line["loss"] for line in lines(run)]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("modality", "lengths"), [("speech", {"loader": {"pad": True}}), ("text", {"inputs": {"packed": False}})]
)
def test_sequences_of_different_lengths(device, tiny, sources, tmp_path, modality, lengths, precision):
    """With the kernel of choice, the losses are those with the padding computed."""
    losses = {}
    for attention in ("auto", "sdpa"):
        config = tiny(modality, precision={"autocast": precision, "attention": attention}, **lengths)
        run = Data2VecTrainer(config, data=sources[modality], out=tmp_path / attention, device=device).fit()
        losses[attention] = [line["loss"] for line in lines(run)]
    assert losses["auto"] == pytest.approx(losses["sdpa"], rel=1e-3 if precision == "float32" else 0.05)


@pytest.mark.parametrize("modality", MODALITIES)
def test_float16_with_its_loss_scale(gpu, tiny, sources, tmp_path, modality):
    config = tiny(modality, steps=12, precision={"autocast": "float16"})
    trainer = Data2VecTrainer(config, data=sources[modality], out=tmp_path / "half", device=gpu)
    half = lines(trainer.fit())
    skipped = half[-1]["skipped_steps"]
    assert skipped <= 8, "the scale halves from 65536 until the gradients fit"
    assert trainer.loop.update.loss_scale.value.item() == 65536 / 2**skipped
    assert all(value.isfinite().all() for value in trainer.model.parameters())
    plain = Data2VecTrainer(tiny(modality, steps=12), data=sources[modality], out=tmp_path / "plain", device=gpu)
    assert half[0]["loss"] is None or half[0]["loss"] == pytest.approx(lines(plain.fit())[0]["loss"], rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_no_step_waits_for_the_device(device, tiny, sources, tmp_path, monkeypatch, modality, precision):
    """The sync debug mode of torch makes every wait an error: from the third step on, until a line is logged."""
    if device.type == "cpu" and precision == "float16":
        pytest.skip("float16 is for GPUs")
    config = tiny(modality, steps=9, log={"every": 8}, precision={"autocast": precision})
    trainer = Data2VecTrainer(config, data=sources[modality], out=tmp_path / "run", device=device)
    debug, strict = torch.cuda.set_sync_debug_mode if device.type == "cuda" else lambda mode: None, []
    losses, write = trainer.task.losses, LogLines.write
    calls = []

    def watched_losses(*arguments):
        calls.append(1)
        if len(calls) in (3, 4, 5, 6, 7):
            debug("error")
            strict.append(len(calls))
        return losses(*arguments)

    def unwatched_line(*arguments, **options):
        debug("default")
        return write(*arguments, **options)

    trainer.task.losses = watched_losses
    monkeypatch.setattr(LogLines, "write", unwatched_line)
    try:
        trainer.fit()
    finally:
        debug("default")
    assert strict == [3, 4, 5, 6, 7]
    assert [line["step"] for line in lines(tmp_path / "run")] == [8, 9]


def test_the_debug_mode_finds_a_wait(gpu):
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            torch.ones(3, device=gpu).sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("modality", MODALITIES)
def test_batches_reach_the_device_from_pinned_memory(device, tiny, sources, modality):
    config = tiny(modality, loader={"prefetch": 1})
    source = open_data(sources[modality], config, None)
    with open_loader(config, source, device=device) as loader:
        (batch,) = loader.step(0)
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    there = batch.to(device)
    for name, value in tensors.items():
        moved = getattr(there, name)
        if name != "lengths":
            assert value.is_pinned() == (device.type == "cuda"), name
            assert moved.device.type == device.type
        assert torch.equal(moved.cpu(), value), name
    assert torch.equal(there.rows.cpu(), there.mask.flatten().cpu().nonzero().flatten())


def test_copies_ahead_of_the_work_give_the_same_numbers(device):
    """Memory of the copies is used again while the work before them is still going on."""
    batches = [
        Batch(inputs=torch.full((256, 1024), float(i)), sample_ids=torch.arange(256), labels=torch.full((256,), i))
        for i in range(50)
    ]
    if device.type == "cuda":
        batches = [batch.pin() for batch in batches]
    weight, sums = torch.eye(1024, device=device), []
    for batch in Prefetch(device)(batches):
        assert batch.inputs.device.type == batch.labels.device.type == device.type
        sums.append(((batch.inputs @ weight).mean() + batch.labels.float().mean()) / 2)
    assert torch.stack(sums).tolist() == pytest.approx(list(range(50)))
