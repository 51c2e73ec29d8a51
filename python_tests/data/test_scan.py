from __future__ import annotations

import io
import sys
import threading

import pytest

from d2v_fast.data import scan as scanning
from d2v_fast.data.scan import Progress, scan


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 3000])
def test_results_come_in_order(count, threads):
    numbers = list(range(5, 5 + count))
    assert list(scan(lambda i: i * i, numbers, threads, "squaring")) == [i * i for i in numbers]


def test_what_is_left_is_dropped_when_the_caller_stops():
    done, lock = [], threading.Lock()

    def work(i):
        with lock:
            done.append(i)
        return i

    results = scan(work, range(100_000), 2, "counting")
    assert next(results) == 0
    results.close()
    assert len(done) < 1_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("d2v-scan")]


def test_an_error_comes_through():
    with pytest.raises(ZeroDivisionError):
        list(scan(lambda i: 1 // (50 - i), range(100), 2, "dividing"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by the test."""
    time = [0.0]
    monkeypatch.setattr(scanning.time, "monotonic", lambda: time[0])
    return time


def test_nothing_is_shown_if_it_is_soon_over_and_lines_otherwise(clock, capsys):
    with Progress("reading", 1000) as progress:
        for clock[0] in (0.5, 1.0, 1.9):
            progress.advance(10)
        assert capsys.readouterr().err == ""
        clock[0] = 20.0
        progress.advance(70)
        assert capsys.readouterr().err == "d2v-fast: reading: 100 of 1,000, 5/s, 180 s left\n"
        clock[0] = 25.0
        progress.advance(100)
        assert capsys.readouterr().err == ""


def test_a_quiet_log_shows_no_progress(clock, monkeypatch, capsys, caplog):
    with caplog.at_level("WARNING", "d2v_fast"), Progress("reading", 1000) as progress:
        clock[0] = 20.0
        progress.advance(70)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        progress.advance(70)
    assert capsys.readouterr().err == ""


def test_a_terminal_that_goes_away_stops_no_reading(clock, monkeypatch):
    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    with Progress("reading", 1000) as progress:
        clock[0] = 10.0
        progress.advance(400)
        progress.advance(100)


def test_a_bar_in_a_terminal(clock, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("reading", 1000) as progress:
        clock[0] = 10.0
        progress.advance(400)
        progress.advance(100)
    error = capsys.readouterr().err
    assert "reading" in error
    assert "500/1000" in error
    assert "50/s" in error
