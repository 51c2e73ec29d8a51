"""The loop itself: what it knows of the method (nothing), and that whatever ends it saves first."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from d2v_fast import ops
from d2v_fast.data import Loader, SampleError, TooManySkipped
from d2v_fast.data.holding import split
from d2v_fast.errors import RunStopped
from d2v_fast.models import Loss, encoder
from d2v_fast.run.journal import Journal
from d2v_fast.run.metrics import Window
from d2v_fast.run.progress import Display
from d2v_fast.training import loop as loop_module
from d2v_fast.training import out_of_memory
from d2v_fast.training.precision import LossScale
from d2v_fast.training.pretraining_task import PretrainingTask
from d2v_fast.training.trainer import Data2VecTrainer
from d2v_fast.training.update import Update


def test_the_loop_knows_no_method():
    text = Path(loop_module.__file__).read_text().lower()
    assert [word for word in ("teacher", "student", "mask", "row", "ema") if word in text] == []


def fail(patch, owner, name: str, error: BaseException, after: int) -> None:
    """Let `owner.name` work `after` times; then it raises."""
    original, calls = getattr(owner, name), []

    def wrapper(*arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise error
        return original(*arguments, **options)

    patch.setattr(owner, name, wrapper)


@pytest.fixture
def trainer(make_config, make_data, tmp_path):
    """(**overrides) to a vision trainer of 5 steps with 2 micro-batches and a line for each, saved at the end only."""

    def make(**overrides) -> Data2VecTrainer:
        often = {"steps": 5, "log": {"every": 1, "validate_every": 2}, "checkpoint": {"every": 1000}}
        config = make_config("vision", **often | {"loader": {"holdout": 0.2}} | overrides)
        return Data2VecTrainer(config, data=make_data("vision"), out=tmp_path / "run")

    return make


def saved(run: Path) -> list[str]:
    folder = run / "checkpoints"
    return sorted(os.listdir(folder)) if folder.exists() else []


# Where an error comes from, after how many calls, and the step whose state is saved.
ENDS = {
    "the loader": (Loader, "step", 2, 2),
    "the loss of a micro-batch": (PretrainingTask, "losses", 5, 2),  # in the middle of step 3
    "the clipping": (torch.nn.utils, "get_total_norm", 2, 2),
    "the progress bar": (Display, "advance", 1, 2),
    "a validation": (PretrainingTask, "validate", 0, 2),
    "the monitors": (PretrainingTask, "monitors", 2, 3),
    "the log": (Journal, "record", 2, 3),
    "the judgement": (PretrainingTask, "judge", 3, 4),
}


@pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("where", ENDS)
def test_whatever_ends_a_run_saves_the_last_whole_step(trainer, monkeypatch, where, error, read_lines):
    owner, name, after, step = ENDS[where]
    one = trainer()
    with monkeypatch.context() as patch:
        fail(patch, owner, name, error, after)
        with pytest.raises(type(error)) as raised:
            one.fit()
    assert raised.value is error
    assert saved(one.out) == [f"step_{step:08d}"]
    if where != "the log":
        assert [line["step"] for line in read_lines(one.out)] == list(range(1, step + (where != "the progress bar")))


def test_a_run_that_ended_by_an_error_continues_with_the_same_bits(
    trainer, monkeypatch, train, tmp_path, assert_same_run
):
    one = trainer()
    for where, after in (("the loss of a micro-batch", 5), ("the judgement", 1)):
        owner, name, _, _ = ENDS[where]
        with monkeypatch.context() as patch:
            fail(patch, owner, name, ValueError(where), after)
            with pytest.raises(ValueError, match=where):
                one.fit()  # the same object, whose gradients of a half step are gone
    assert saved(one.out) == ["step_00000002", "step_00000004"]
    one.fit("must")
    whole = train(one.config, tmp_path / "whole")
    assert_same_run(whole, one.out, 5)


def test_an_error_before_the_first_step_saves_nothing(trainer, monkeypatch):
    one = trainer()
    fail(monkeypatch, PretrainingTask, "losses", ValueError("broken"), 1)
    with pytest.raises(ValueError, match="broken"):
        one.fit()
    assert saved(one.out) == []


@pytest.mark.parametrize(("owner", "name"), [(ops, "adamw_ema_"), (LossScale, "update"), (Window, "add")])
def test_an_error_while_parameters_are_written_saves_nothing(trainer, monkeypatch, owner, name):
    """Some of them would be a step ahead of the others, or all of them ahead of the number of the step."""
    one = trainer()
    fail(monkeypatch, owner, name, ValueError("torn"), 2)
    with pytest.raises(ValueError, match="torn"):
        one.fit()
    assert saved(one.out) == []


def test_what_cannot_be_saved_either_does_not_hide_the_error(trainer, monkeypatch, capsys):
    one = trainer()
    fail(monkeypatch, PretrainingTask, "losses", ValueError("broken"), 3)
    fail(monkeypatch, Update, "state", OSError("no disk"), 0)
    with pytest.raises(ValueError, match="broken"):
        one.fit()
    assert "the state after step 1 could not be saved either: no disk" in capsys.readouterr().err


def test_too_many_broken_files_in_a_validation_leave_a_checkpoint_and_the_line(
    make_config, make_data, tmp_path, read_lines
):
    held_out = set()

    class Broken(type(make_data("vision"))):
        def read(self, index):
            if index in held_out:
                raise SampleError(self.name(index), "it is broken")
            return super().read(index)

    source = Broken("vision", [make_data("vision").read(i) for i in range(16)])
    held_out |= set(split(source, torch.arange(16).numpy(), 0.4)[1].tolist())
    config = make_config("vision", loader={"holdout": 0.4}, log={"every": 2, "validate_every": 4})
    with pytest.raises(TooManySkipped):
        Data2VecTrainer(config, data=source, out=tmp_path / "run").fit()
    assert saved(tmp_path / "run") == ["step_00000003", "step_00000004"]
    lines = read_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4]
    assert "validation_loss" not in lines[1]
    assert lines[1]["loss"] > 0


NO_MEMORY = {
    "the GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\nmany lines"),
    "the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:131] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("where", ["losses", "validate"])
@pytest.mark.parametrize("kind", NO_MEMORY)
def test_running_out_of_memory_says_what_to_lower_and_saves(trainer, monkeypatch, kind, where):
    one = trainer()
    fail(monkeypatch, PretrainingTask, where, NO_MEMORY[kind], 5 if where == "losses" else 0)
    place = r"in step 3|in the validation after step 2"
    with pytest.raises(
        RunStopped, match=rf"out of memory ({place}): .*precision\.checkpoint_activations.*loader\.batch_size"
    ):
        one.fit()
    assert saved(one.out) == ["step_00000002"]


def test_memory_that_a_real_allocation_does_not_get(trainer, monkeypatch):
    one = trainer()
    monkeypatch.setattr(PretrainingTask, "losses", lambda *arguments: torch.empty(1 << 50))
    with pytest.raises(RunStopped, match=r"out of memory in step 1: .*DefaultCPUAllocator"):
        one.fit()


def test_other_errors_are_not_taken_for_it():
    for error in (RuntimeError("shape mismatch"), OSError("memory"), ValueError("out of memory")):
        assert not out_of_memory.is_out_of_memory(error)


def test_the_activations_are_free_when_the_state_is_saved(trainer, monkeypatch):
    """The error's traceback would keep what a step has computed: there may be no memory for a checkpoint beside it."""
    one, alive = trainer(), []
    original = PretrainingTask.losses

    class Large(torch.Tensor):
        def __del__(self):
            alive.remove(1)

    def losses(task, batch, step, micro_batch):
        if step < 2:
            return original(task, batch, step, micro_batch)
        alive.append(1)
        large = torch.zeros(3).as_subclass(Large)
        assert large is not None
        raise torch.OutOfMemoryError("no more")

    counts = []
    state = Update.state
    monkeypatch.setattr(PretrainingTask, "losses", losses)
    monkeypatch.setattr(Update, "state", lambda update: (counts.append(len(alive)), state(update))[1])
    with pytest.raises(RunStopped) as error:
        one.fit()
    assert counts == [0]
    assert "losses" in "".join(traceback.format_exception(error.value))  # where it was is still known


def test_a_loss_weight_counts_and_each_loss_is_a_mean_over_the_step(trainer, monkeypatch, read_lines):
    """Two losses, one with weight 0.5, over two micro-batches with different counts."""
    one = trainer(steps=1)
    original, seen = PretrainingTask.losses, []

    def losses(task, batch, step, micro_batch):
        regression = original(task, batch, step, micro_batch)["regression"]
        seen.append((float(regression.sum.detach()), regression.count, 3 + micro_batch))
        return {"regression": regression, "other": Loss(regression.sum * 2, 3 + micro_batch, 0.5)}

    counts = PretrainingTask.counts
    views = iter((3, 4))
    monkeypatch.setattr(PretrainingTask, "losses", losses)
    monkeypatch.setattr(PretrainingTask, "counts", lambda task, batch: counts(task, batch) | {"other": next(views)})
    (line,) = read_lines(one.fit())
    total = sum(value for value, _, _ in seen)
    regression, other = total / sum(count for _, count, _ in seen), 2 * total / 7
    assert line["loss_regression"] == pytest.approx(regression, rel=1e-6)
    assert line["loss_other"] == pytest.approx(other, rel=1e-6)
    assert line["loss"] == pytest.approx(regression + 0.5 * other, rel=1e-6)


def test_layer_drop_is_the_same_in_all_micro_batches_of_a_step(trainer):
    one = trainer(steps=4, model={"transformer": {"layer_drop": 0.5}})
    forward, seen = one.model.forward, []
    one.model.forward = lambda batch, **options: (
        seen.append(options["skipped"]) if one.model.training else None,
        forward(batch, **options),
    )[1]
    one.fit()
    assert len(seen) == 8
    assert seen[0::2] == seen[1::2]
    assert len(set(seen)) > 1


@pytest.mark.parametrize("modality", ["speech", "vision", "text"])
def test_recomputed_activations_change_no_bit_of_a_run_that_continues(
    make_config, train, tmp_path, modality, assert_same_run, monkeypatch
):
    """With dropout of every kind, drop path and layer drop: so `precision.checkpoint_activations` may change."""
    noise = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "layer_drop": 0.3}
    model = {"transformer": noise | ({"drop_path": 0.2} if modality == "vision" else {})}
    plain, recomputed = (
        make_config(modality, model=model, precision={"checkpoint_activations": value}) for value in (False, True)
    )
    with monkeypatch.context() as patch:
        fail(patch, PretrainingTask, "losses", ValueError("broken"), 2 * 3)
        with pytest.raises(ValueError, match="broken"):
            train(plain, tmp_path / "run")
    calls = []
    monkeypatch.setattr(encoder, "checkpoint", lambda *a, **o: (calls.append(1), checkpoint(*a, **o))[1])
    train(recomputed, tmp_path / "run")
    assert calls
    assert_same_run(train(plain, tmp_path / "whole"), tmp_path / "run", 8)
