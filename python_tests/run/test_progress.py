from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from d2v_fast.run import progress
from d2v_fast.run.progress import Display, describe

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
    assert describe(LINE) == "epoch 0.5  loss 1.25  lr 0.001  std 0.5/-/0.7  rank 12/20  123.4 samples/s"
    rare = LINE | {"validation_loss": 1.5, "skipped_samples": 2, "skipped_steps": 1, "data_wait": 0.25}
    assert "validation 1.5" in describe(rare)
    assert "skipped 1 steps, 2 samples" in describe(rare)
    for share, shown in ((0.904, "90%"), (-1.5, "-150%"), (None, "-")):
        assert f"loss 1.25  explained {shown}  lr" in describe(LINE | {"explained": share})
        assert f"explained {shown}  lr" in describe(LINE | {"explained": 0.3, "explained_smoothed": share})
    assert describe(rare).endswith("waits for data 25%")
    measured = {"flops_share": 0.412, "flops_per_second": 9e10, "peak_memory": 612_000_000}
    assert describe(LINE | measured).endswith("  123.4 samples/s  41% of peak FLOP/s  612 MB")


def test_what_a_task_does_not_measure_is_left_out():
    bare = {key: LINE[key] for key in LINE if not key.endswith(("_std", "_rank"))}
    assert describe(bare) == "epoch 0.5  loss 1.25  lr 0.001  123.4 samples/s"


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding, that fails with an error from the moment that it is given one."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.error: Exception | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)

    @property
    def shown(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def a_real_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def test_a_quiet_log_has_no_bar(caplog):
    with caplog.at_level("WARNING", "d2v_fast"):
        screen = Terminal()
        display = Display(20, 5, screen)
        display.start()
        display.advance(6)
        display.log(10, LINE)
        display.stop()
    assert screen.shown == ""


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1", "FORCE_COLOR": "3"}])
def test_plain_lines_without_a_terminal(capsys, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = io.StringIO()
    display = Display(20, 0, file)
    display.start()
    display.advance(9)
    display.log(9, LINE)
    display.warn("careful")
    display.stop()
    out, err = capsys.readouterr()
    assert out == file.getvalue() == ""
    assert err == f"d2v-fast: step 9/20  {describe(LINE)}\nd2v-fast: warning: careful\n"


def test_lines_say_how_long_the_rest_will_take(capsys, monkeypatch):
    now = iter([100.0, 130.0])  # the clock at step 1 and at step 4
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    display = Display(1000, 0, io.StringIO())
    for step in (1, 2, 3, 4):
        display.advance(step)
    display.log(4, LINE)
    assert capsys.readouterr().err.endswith("123.4 samples/s  2:46:00 left\n")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_no_bar_on_a_terminal_that_cannot_move_its_cursor(monkeypatch, capsys, term):
    monkeypatch.setenv("TERM", term)
    display = Display(20, 0, Terminal())
    display.start()
    display.log(10, LINE)
    display.stop()
    assert "step 10/20" in capsys.readouterr().err


def test_a_bar_on_a_terminal(capsys):
    screen = Terminal()
    display = Display(20, 5, screen)
    display.start()
    display.log(10, LINE)
    display.stop()
    assert "10/20" in screen.shown
    assert "loss 1.25" in screen.shown
    assert "123.4 samples/s" in screen.shown
    assert capsys.readouterr() == ("", "")


def test_a_bar_where_the_encoding_lacks_its_characters():
    screen = Terminal("ascii")
    display = Display(20, 5, screen)
    display.start()
    display.log(10, LINE | {"note": "\u00e9"})
    display.stop()
    assert "10/20" in screen.shown


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.EIO, "Input/output error"),  # the terminal was closed
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("I/O operation on closed file"),
    ],
)
@pytest.mark.parametrize("moment", ["before", "during", "end"])
def test_a_terminal_that_goes_away_ends_the_bar_and_nothing_else(capsys, error, moment):
    screen, streams = Terminal(), (sys.stdout, sys.stderr)
    display = Display(20, 0, screen)
    if moment == "before":
        screen.error = error
    display.start()
    if moment == "during":
        screen.error = error
    for step in (10, 11):
        display.advance(step)
        if display._bar is not None:
            display._bar.refresh()  # as the thread of the bar does ten times a second
        display.log(step, LINE)
    if moment == "end":
        screen.error = error
    display.stop()
    assert (sys.stdout, sys.stderr) == streams
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if "the progress bar is off" in line]
    assert str(error) in told
    if moment != "end":
        assert "step 11/20" in lines[-1]


def test_a_bar_that_rich_cannot_draw_is_switched_off(capsys, monkeypatch):
    display = Display(20, 0, Terminal())
    display.start()

    def fail(*args, **options):
        raise ZeroDivisionError("width")

    monkeypatch.setattr(display._bar, "update", fail)
    display.advance(1)
    display.log(2, LINE)
    display.stop()
    told, line = capsys.readouterr().err.splitlines()
    assert "the progress bar is off, lines follow instead (ZeroDivisionError: width)" in told
    assert "step 2/20" in line


@pytest.mark.parametrize("stream", ["none", "closed", "devnull"])
def test_a_standard_output_that_is_closed(monkeypatch, capsys, stream):
    file = None if stream == "none" else open(os.devnull, "w")  # noqa: SIM115
    if stream == "closed":
        file.close()
    monkeypatch.setattr(sys, "stdout", file)
    display = Display(20, 0)
    display.start()
    display.log(10, LINE)
    display.stop()
    assert "step 10/20" in capsys.readouterr().err
    if file is not None:
        file.close()
