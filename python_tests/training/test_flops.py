"""What a log line says about speed: FLOPs counted in one step, scaled for the others, and no bit of the run changed."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d2v_fast.modalities import open_data, open_loader
from d2v_fast.run.metrics import Clock, peak_memory
from d2v_fast.training import flops as flops_module
from d2v_fast.training.flops import StepFlops, bare_rate, counter
from d2v_fast.training.trainer import Data2VecTrainer

CPU = torch.device("cpu")


@pytest.fixture
def steps(make_config, make_data, tmp_path):
    """(modality, number of steps) to a trainer that has not begun, and the batches of these steps."""

    def make(modality, count, **overrides):
        config, data = make_config(modality, **overrides), make_data(modality)
        with open_loader(config, open_data(data, config, None)) as loader:
            batches = [loader.step(n) for n in range(count)]
        return Data2VecTrainer(config, data=data, out=tmp_path / modality), batches

    return make


@pytest.mark.parametrize("modality", ["vision", "text2"])
def test_one_step_is_counted_and_the_others_are_scaled(steps, modality, monkeypatch):
    trainer, batches = steps(modality, 3, model={"transformer": {"layer_drop": 0.0}})
    times = []
    monkeypatch.setattr(flops_module, "counter", lambda: (times.append(1), counter())[1])
    clocks = [Clock() for _ in batches]
    counted = []
    for n, (clock, micro_batches) in enumerate(zip(clocks, batches, strict=True)):
        with counter() as seen:
            trainer.loop.step(n, micro_batches, clock)
        counted.append(seen.get_total_flops())
    assert len(times) == 1
    assert clocks[0]._flops == counted[0] > 0
    assert [clock._flops for clock in clocks[1:]] == pytest.approx(
        counted[1:], rel=0.02
    )  # other numbers of masked rows


def test_what_is_left_untrained_is_counted_by_itself(steps):
    _, (batches,) = steps("vision", 1)
    flops = StepFlops()
    x = torch.ones(4, 4)
    for held, products in ((0, 1), (7, 3), (0, 5)):  # the last one is not counted: it is known
        with flops.counted(batches, held):
            for _ in range(products):
                x @ x
    half = [replace(batch, inputs=batch.inputs[:1]) for batch in batches]
    size = sum(batch.inputs.numel() for batch in batches)
    assert (flops.of(batches, 0), flops.of(batches, 7), flops.of(batches, 1)) == (128, 384, 0)
    assert flops.of(half, 0) == pytest.approx(128 * sum(batch.inputs.numel() for batch in half) / size)


def test_padding_and_lost_samples_do_not_count(steps):
    _, (batches,) = steps("vision", 1)
    flops, x = StepFlops(), torch.ones(4, 4)
    none = replace(batches[0], inputs=batches[0].inputs[:0], sample_ids=batches[0].sample_ids[:0])
    with flops.counted([none], 0):  # nothing to scale by, so the next step is counted
        x @ x
    assert flops.of(batches, 0) == 0
    with flops.counted([batches[0], none], 0):
        x @ x
    count = len(batches[0].sample_ids)
    lengths = torch.full((count,), 5)
    lengths[0] = 10
    padded = replace(batches[0], lengths=lengths)
    assert flops.of([padded], 0) == pytest.approx(128 * (5 + 5 / count) / 10)


def test_counting_changes_no_bit(make_config, train, tmp_path, monkeypatch, assert_same_run):
    config = make_config("speech2", steps=2)
    counted = train(config, tmp_path / "counted")
    monkeypatch.setattr(StepFlops, "counted", lambda *_: nullcontext())
    assert_same_run(counted, train(config, tmp_path / "plain"), 2)


def test_bare_products_are_measured_once(monkeypatch):
    flops_module._measured.cache_clear()
    calls = []
    original = flops_module.ops.linear
    monkeypatch.setattr(flops_module.ops, "linear", lambda *a: (calls.append(1), original(*a))[1])
    rate = bare_rate(torch.float32, CPU)
    first = len(calls)
    assert first >= 2
    assert rate == bare_rate(torch.float32, CPU)
    assert len(calls) == first
    assert rate > 1e8


def test_a_clock_without_flops_says_none(monkeypatch):
    now = iter([0.0, 2.0, 6.0])
    monkeypatch.setattr("d2v_fast.run.metrics.time.perf_counter", lambda: next(now))
    clock = Clock()
    clock.add(10, 6e9)
    assert clock.read(1.0, 4e9) == {
        "samples_per_second": 5.0, "data_wait": 0.5, "flops_per_second": 3e9, "flops_share": 0.75,
    }  # fmt: skip
    clock.add(4)
    line = clock.read(1.0, 4e9)
    assert (line["samples_per_second"], line["flops_per_second"], line["flops_share"]) == (1.0, None, None)


def test_peak_memory_is_what_was_held_once():
    held = torch.ones(1 << 26)
    size = held.nbytes
    assert peak_memory(CPU) > size
    del held
    assert peak_memory(CPU) > size


def test_compiled_runs_have_no_count(make_config, make_data, tmp_path):
    config = make_config("vision")
    compiled = replace(config, precision=replace(config.precision, compile=True))
    trainer = Data2VecTrainer(compiled, data=make_data("vision"), out=tmp_path)
    assert trainer.loop._flops is None


def test_what_is_counted_for_a_gpu_are_the_products_of_a_step(steps, monkeypatch):
    """benchmarks/gpu_count.py, a forward pass on tensors without numbers, against a step of this machine."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    gpu_count = importlib.import_module("gpu_count")
    trainer, (batches,) = steps("vision", 1, model={"transformer": {"layer_drop": 0.0}})
    model = trainer.model
    with counter() as seen:
        model(batches[0], skipped=(False,) * len(model.student.encoder.blocks)).loss.backward()
    counts = gpu_count.count(trainer.config, batches[0])
    # Of the first layer no gradient of the input is wanted.
    assert seen.get_total_flops() <= counts.flops <= 1.1 * seen.get_total_flops()
    assert 100 < counts.forward < 1000
    assert 50 < counts.backward < counts.forward
    assert counts.moved > 1e5
    assert counts.parameters == sum(p.numel() for p in model.student.parameters())
    assert 0 < counts.seconds(fused=0.5) < counts.seconds()
