from __future__ import annotations

import io
from importlib.util import find_spec

import pytest
from rich.console import Console

from d2v_fast.errors import ConfigError
from d2v_fast.run import progress
from d2v_fast.run.progress import Display, TensorBoard, describe, open_sinks

LINE = {
    "step": 10,
    "epoch": 0.5,
    "loss": 1.25,
    "lr": 1e-3,
    "ema_decay": 0.99,
    "grad_norm": 2.0,
    "local_std": 0.5,
    "pred_std": None,
    "target_std": 0.7,
    "pred_rank": 12.0,
    "target_rank": 20.0,
    "skipped_samples": 0,
    "skipped_steps": 0,
    "samples_per_second": 123.4,
    "data_wait": 0.01,
}


def test_a_line_says_what_is_worth_watching():
    assert describe(LINE) == "loss 1.25  lr 0.001  std 0.5/-/0.7  rank 12/20  123.4 samples/s"
    rare = LINE | {"validation_loss": 1.5, "skipped_samples": 2, "skipped_steps": 1, "data_wait": 0.25}
    assert "validation 1.5" in describe(rare)
    assert "skipped 1 steps, 2 samples" in describe(rare)
    assert describe(rare).endswith("waits for data 25%")


def test_plain_lines_without_a_terminal(capsys):
    display = Display(20, 0, Console(file=io.StringIO(), force_terminal=False))
    display.start()
    display.advance(9)
    display.log(10, LINE)
    display.warn("careful")
    display.stop()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"d2v-fast: step 10/20  {describe(LINE)}\nd2v-fast: warning: careful\n"


def test_a_bar_on_a_terminal(capsys):
    screen = io.StringIO()
    display = Display(20, 5, Console(file=screen, force_terminal=True, width=200))
    display.start()
    display.log(10, LINE)
    display.stop()
    assert "10/20" in screen.getvalue()
    assert "loss 1.25" in screen.getvalue()
    assert capsys.readouterr().out == ""


def test_wandb_that_is_not_installed_names_the_remedy(tmp_path):
    with pytest.raises(
        ConfigError, match=r"log\.wandb is on, but wandb is not installed: pip install 'd2v_fast\[wandb\]'"
    ):
        open_sinks(tmp_path, 0, {}, wandb=True)  # conftest.py hides both optional packages
    assert open_sinks(tmp_path, 0, {}, wandb=False) == []


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_receives_the_numbers(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(progress, "find_spec", lambda name: name == "tensorboard" or None)
    (sink,) = open_sinks(tmp_path, 0, {}, wandb=False)
    assert isinstance(sink, TensorBoard)
    sink.write(10, LINE)
    sink.write(20, LINE | {"loss": 1.0})
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.25), (20, 1.0)]
    assert "pred_std" not in events.Tags()["scalars"]
    assert "target_std" in events.Tags()["scalars"]
