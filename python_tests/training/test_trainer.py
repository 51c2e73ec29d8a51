from __future__ import annotations

import errno
import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from d2v_fast import ops
from d2v_fast.data import ArraySource, SampleError
from d2v_fast.errors import RunStopped
from d2v_fast.run import checkpoint
from d2v_fast.run.metrics import NON_FINITE_LIMIT, RATES
from d2v_fast.run.metrics_file import MetricsFile
from d2v_fast.training import fit
from d2v_fast.training.trainer import Data2VecTrainer

QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0, "drop_path": 0.0}
FIELDS = [
    *("step", "epoch", "loss", "lr", "ema_decay", "grad_norm"),
    *("local_std", "pred_std", "target_std", "pred_rank", "target_rank", "explained", "explained_smoothed"),
    *("skipped_samples", "skipped_steps", *RATES),
]


def decay(update: int) -> float:
    """Of the tiny configuration: from 0.9 to 0.99 in 5 steps."""
    return 0.99 - (0.99 - 0.9) * (1 - update / 5)


@pytest.fixture
def trainer(make_config, make_data, tmp_path):
    """(**overrides) to a vision trainer in a folder of its own."""

    def make(**overrides) -> Data2VecTrainer:
        return Data2VecTrainer(make_config("vision", **overrides), data=make_data("vision"), out=tmp_path / "run")

    return make


def poison(trainer: Data2VecTrainer, *steps: int) -> None:
    """Make the gradient of these steps (from 0) nan."""
    calls = iter(range(10_000))
    accumulation = trainer.config.loader.accumulation

    def hook(gradient):
        return gradient * torch.nan if next(calls) // accumulation in steps else gradient

    next(trainer.model.student.head.parameters()).register_hook(hook)


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_every_field_is_logged(make_config, train, tmp_path, modality):
    run = train(make_config(modality, steps=5, log={"every": 2}), tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert list(line) == FIELDS
        assert all(isinstance(value, (int, float)) for value in line.values())
        assert 1 <= line["pred_rank"] <= 32
        assert 1 <= line["target_rank"] <= 32
        assert 0 <= line["data_wait"] <= 1
        assert line["samples_per_second"] > 0
        assert line["flops_per_second"] > 0
        assert 0 < line["flops_share"] < 1.5
        assert line["peak_memory"] > 1e7
    assert lines[0]["lr"] == 1e-3  # step 2 of 5, one of warm-up
    assert lines[0]["ema_decay"] == decay(2)
    assert (lines[0]["skipped_samples"], lines[0]["skipped_steps"]) == (0, 0)


def test_epoch_counts_micro_batches(make_config, train, tmp_path, read_lines):
    # 16 samples give 5 micro-batches of 3; a step has 2, so an epoch is 2 steps.
    lines = read_lines(train(make_config("vision", steps=5, log={"every": 1}), tmp_path / "run"))
    assert [line["epoch"] for line in lines] == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_accumulation_does_not_change_the_step(make_config, train, tmp_path, read_weights, read_lines, monkeypatch):
    """8 samples at once, or 2 in each of 4 micro-batches: the same update, and one EMA step in each."""
    updates = []
    original = ops.adamw_ema_

    def spy(*tensors, decay, **settings):
        updates.append(decay)
        original(*tensors, decay=decay, **settings)

    monkeypatch.setattr(ops, "adamw_ema_", spy)
    runs = {}
    for size, accumulation in ((8, 1), (2, 4)):
        config = make_config(
            "vision",
            model={"transformer": QUIET},
            loader={"batch_size": size, "accumulation": accumulation},
            steps=3,
            log={"every": 1},
        )
        runs[size] = train(config, tmp_path / str(size))
    whole, parts = (read_weights(runs[size], 3) for size in (8, 2))
    for name, value in whole.items():
        torch.testing.assert_close(
            parts[name], value, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert [line["loss"] for line in read_lines(runs[8])] == pytest.approx(
        [line["loss"] for line in read_lines(runs[2])], rel=1e-5
    )
    expected = [decay(n) for n in (1, 2, 3)]
    assert updates == expected * 2


def test_teacher_moves_once_per_step_by_the_schedule(trainer, read_weights):
    one = trainer(steps=1)
    start = {name: value.clone() for name, value in one.model.teacher.state_dict().items()}
    out = one.fit()
    weights = read_weights(out, 1)
    for name, value in start.items():
        student = weights[f"student/encoder.{name}"]
        expected = value.double() + (1 - 0.918) * (student.double() - value.double())
        torch.testing.assert_close(weights[f"teacher/{name}"].double(), expected, atol=1e-7, rtol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count(trainer, read_weights, read_lines):
    one = trainer(steps=1)
    before = {f"{part}/{name}": value.clone() for part in ("student", "teacher")
              for name, value in getattr(one.model, part).state_dict().items()}  # fmt: skip
    poison(one, 0)
    out = one.fit()
    after = read_weights(out, 1)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    (line,) = read_lines(out)
    assert line["skipped_steps"] == 1
    assert line["loss"] is None
    assert line["grad_norm"] is None
    assert line["target_std"] > 0


def test_schedules_count_attempted_steps(trainer, read_lines, read_weights):
    one = trainer(steps=4, log={"every": 1})
    poison(one, 1, 2)
    out = one.fit()
    lines = read_lines(out)
    assert [line["skipped_steps"] for line in lines] == [0, 1, 2, 2]
    assert [line["ema_decay"] for line in lines] == [decay(n) for n in (1, 2, 3, 4)]
    assert lines[3]["lr"] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 3 / 4)))  # 0.2 * 4: no warm-up
    # AdamW's own bias correction counts the steps that it took.
    counts = {float(value) for name, value in read_weights(out, 4).items() if name.startswith("optimizer/step.")}
    assert counts == {2.0}


def test_many_steps_that_are_not_finite_stop_the_run(trainer, read_lines):
    one = trainer(steps=100, log={"every": 8}, checkpoint={"every": 1000})
    poison(one, *range(3, 100))
    with pytest.raises(
        RunStopped, match=r"step 24: the last 21 steps had no finite loss and gradient\. Lower optim\.lr"
    ):
        one.fit()
    assert NON_FINITE_LIMIT == 20
    assert checkpoint.newest(one.out / "checkpoints").step == 24


def test_collapse_is_warned_of_and_stops_the_run(trainer, capsys):
    one = trainer(steps=9, log={"every": 1}, monitor={"warmup_steps": 2, "min_std": 50.0, "abort_std": 0.0})
    one.fit()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "step 8: this run is not learning" in warnings.pop()  # 8 steps teach it nothing
    assert [line for line in warnings if "the targets are collapsing" in line] == [warnings[-1]]
    assert warnings[-1].startswith("d2v-fast: warning: step 2: the targets are collapsing: standard deviation")
    stopped = trainer(steps=12, log={"every": 1}, monitor={"warmup_steps": 2, "abort_std": 40.0})
    with pytest.raises(RunStopped, match=r"step 10: the targets have collapsed.*monitor\.abort_std \(40\)"):
        stopped.fit()
    assert checkpoint.newest(stopped.out / "checkpoints").step == 10


def test_the_loss_decreases(make_config, tmp_path, read_lines):
    """Pictures with something to learn: stripes, of which a part tells the rest."""
    random = np.random.default_rng(0)
    stripes = [
        np.tile((np.sin(np.arange(16) * random.uniform(0.3, 1.5) + random.uniform(0, 6)) * 100 + 128), (16, 1))
        for _ in range(32)
    ]
    source = ArraySource("vision", [np.repeat(s[:, :, None], 3, 2).astype(np.uint8) for s in stripes])
    config = make_config(
        "vision",
        steps=60,
        loader={"batch_size": 16, "accumulation": 1},
        inputs={"jitter": 0.0, "flip": 0.0, "crop_scale": (1.0, 1.0)},
        ema={"start": 0.99, "end": 0.999, "anneal_steps": 60},
        optim={"lr": 3e-3},
        log={"every": 10},
        checkpoint={"every": 1000},
    )
    Data2VecTrainer(config, data=source, out=tmp_path / "run").fit()
    losses = [line["loss"] for line in read_lines(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]


def test_validation_loss_is_that_of_the_held_out_part(make_config, make_data, tmp_path, read_lines):
    config = make_config("vision", steps=5, loader={"holdout": 0.25}, log={"every": 2, "validate_every": 3})
    trainer = Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run")
    measured = []
    original = trainer.task.validate

    def twice(batches):
        batches = list(batches)
        values = [original(iter(batches)) for _ in range(2)]
        assert values[0] == values[1]  # no dropout
        assert trainer.model.student.training
        assert not trainer.model.teacher.training
        measured.append(values[0]["validation_loss"])
        return values[0]

    trainer.task.validate = twice
    trainer.fit()
    lines = read_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 3, 4, 5]
    assert [line.get("validation_loss") for line in lines] == [None, measured[0], None, measured[1]]
    assert measured[0] != measured[1]


def test_a_sample_that_cannot_be_read_is_counted_and_a_resumed_run_counts_the_same(
    make_config, make_data, tmp_path, assert_same_run, read_lines, monkeypatch
):
    class Broken(type(make_data("vision"))):
        def read(self, index):
            if index in (3, 4):
                raise SampleError(self.name(index), "it is broken")
            return super().read(index)

    source = Broken("vision", [make_data("vision").read(i) for i in range(16)])
    config = make_config("vision", steps=8)
    whole = Data2VecTrainer(config, data=source, out=tmp_path / "whole").fit()
    parts = Data2VecTrainer(make_config("vision", steps=8), data=source, out=tmp_path / "parts")
    original = checkpoint.save

    def stop_after(root, step, *rest):
        original(root, step, *rest)
        if step == 3:
            raise RunStopped("here")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop_after)
        with pytest.raises(RunStopped):
            parts.fit()
    Data2VecTrainer(config, data=source, out=tmp_path / "parts").fit()
    assert_same_run(whole, tmp_path / "parts", 8)
    assert read_lines(whole)[-1]["skipped_samples"] >= 4  # 3 epochs of 2, but for those in the remainder


@pytest.mark.parametrize("teacher_float32", [False, True])
def test_bfloat16_trains_with_float32_weights(make_config, make_data, tmp_path, teacher_float32, read_weights):
    config = make_config("speech", steps=2, precision={"autocast": "bfloat16", "teacher_float32": teacher_float32})
    trainer = Data2VecTrainer(config, data=make_data("speech"), out=tmp_path / "run")
    seen = {}
    linear = trainer.model.student.encoder.blocks[0].ffn.up
    teacher = trainer.model.teacher.blocks[0].ffn.up
    linear.register_forward_hook(lambda m, i, o: seen.update(student=o.dtype))
    teacher.register_forward_hook(lambda m, i, o: seen.update(teacher=o.dtype))
    trainer.fit()
    assert seen == {"student": torch.bfloat16, "teacher": torch.float32 if teacher_float32 else torch.bfloat16}
    assert {value.dtype for value in read_weights(tmp_path / "run", 2).values()} <= {torch.float32, torch.int64}


def test_activation_checkpoints_change_no_bit_in_float32(make_config, train, tmp_path, assert_same_run):
    config = make_config("vision", steps=3)
    train(config, tmp_path / "kept")
    train(make_config("vision", steps=3, precision={"checkpoint_activations": True}), tmp_path / "recomputed")
    assert_same_run(tmp_path / "kept", tmp_path / "recomputed", 3)


def test_compile_is_asked_for_and_keeps_the_names(make_config, train, tmp_path, monkeypatch, read_weights):
    """With the `aot_eager` backend: the graph is captured and differentiated, but not turned into machine code."""
    original = torch.compile
    compiled = []

    def aot_eager(function, **options):
        compiled.append(function)
        return original(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", aot_eager)
    config = make_config("vision", model={"transformer": QUIET}, steps=2, log={"every": 2})
    train(config, tmp_path / "eager")
    assert compiled == []
    train(
        make_config("vision", model={"transformer": QUIET}, steps=2, log={"every": 2}, precision={"compile": True}),
        tmp_path / "compiled",
    )
    assert len(compiled) == 1
    eager, graph = read_weights(tmp_path / "eager", 2), read_weights(tmp_path / "compiled", 2)
    assert eager.keys() == graph.keys()
    for name, value in eager.items():
        torch.testing.assert_close(graph[name], value, atol=1e-5, rtol=1e-4)


def test_a_full_disk_while_logging_ends_the_run(trainer, monkeypatch):
    one = trainer(steps=8, log={"every": 1})

    def full(self, line):
        if line["step"] == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, line)

    original = MetricsFile.write
    monkeypatch.setattr(MetricsFile, "write", full)
    with pytest.raises(RunStopped, match=r"step 5: metrics\.jsonl could not be written: No space left on device"):
        one.fit()


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(
    trainer, monkeypatch, make_config, train, tmp_path, assert_same_run
):
    one = trainer()
    original, calls = checkpoint.save_file, iter(range(100))

    def full(values, path):
        if next(calls) >= 4:  # the second file of the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        original(values, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(RunStopped, match=r"step_00000006 could not be written: the disk is full.*step_00000003"):
            one.fit()
    assert [path.name for path in (one.out / "checkpoints").iterdir()] == ["step_00000003"]
    train(make_config("vision"), one.out)
    train(make_config("vision"), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", one.out, 8)


def test_the_process_is_as_before(trainer, run_python, monkeypatch):
    """Neither making a trainer nor a run changes what others in the process see: random numbers, settings, signals."""

    def state():
        return (
            *(torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_num_interop_threads()),
            *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
            *(
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.benchmark,
                torch.are_deterministic_algorithms_enabled(),
            ),
            *(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), dict(os.environ)),
        )

    told, before = [], state()
    monkeypatch.setattr(fit, "keep_freed_memory", lambda parameters: told.append(1))
    one = trainer(steps=1)
    assert (state(), told) == (before, [])  # nothing that cannot be taken back
    one.fit()
    assert (state(), told) == (before, [1])


def test_parameters_that_were_replaced_are_the_ones_that_are_trained(trainer, read_weights):
    """`load_state_dict(assign=True)` puts other objects in the place of those that the trainer was made with."""
    one = trainer(steps=2)
    given = {name: value.clone() for name, value in one.model.student.state_dict().items()}
    one.model.student.load_state_dict({name: value.clone() for name, value in given.items()}, assign=True)
    for parameter in one.model.student.parameters():
        parameter.requires_grad_(True)
    out = one.fit()
    after = read_weights(out, 2)
    moved = [name for name, value in given.items() if not torch.equal(after[f"student/{name}"], value)]
    assert len(moved) > 20
    teacher = [name for name in moved if f"teacher/{name.removeprefix('encoder.')}" in after]
    unmoved = [n for n in teacher if torch.equal(after[f"teacher/{n.removeprefix('encoder.')}"], given[n])]
    assert teacher
    assert unmoved == []
