"""How the benchmarks time a GPU, with events that are made up; and the GPU benchmarks themselves, on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Device:
    """Work takes the time that it says; events see the clock of this device."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def work(self, name, milliseconds):
        def run(turn):
            self.now += milliseconds * (1 + turn % 3)  # every third call takes three times as long
            self.log.append((name, turn))

        return run

    def event(self):
        device = self

        class Event:
            def record(self):
                self.at = device.now

            def elapsed_time(self, end):
                assert "synchronize" in device.log[-1:], "nothing is read before the device is done"
                return end.at - self.at

        return Event()


def test_medians_of_functions_in_turn():
    timing = pytest.importorskip("gpu_timing", reason="benchmarks/ is not here")
    device = Device()
    clock = timing.Clock(
        device.event,
        lambda: device.log.append("synchronize"),
        lambda: device.log.append("stall") or device.work("", 50),
    )
    seconds = timing.in_turn({"a": device.work("a", 2.0), "b": device.work("b", 5.0)}, 3, clock)
    assert seconds == {"a": pytest.approx(4e-3), "b": pytest.approx(10e-3)}
    warm, rest = device.log[:6], device.log[6:]
    assert warm == [(name, turn) for name in "ab" for turn in range(3)]
    for turn in range(3):
        assert rest[5 * turn : 5 * turn + 5] == ["synchronize", "stall", ("a", turn), ("b", turn), "synchronize"]


def test_rotation_is_larger_than_the_cache():
    timing = pytest.importorskip("gpu_timing", reason="benchmarks/ is not here")
    for moved, cache in ((1000, 100_000), (300_000, 100_000), (7, 0)):
        sets = timing.rotation(lambda seed: seed, moved, cache)
        assert sets == list(range(len(sets)))
        assert len(sets) >= 2
        assert len(sets) * moved > 2 * cache


PRETEND = """
import time
import pytest
import torch

class Event:
    def record(self): self.at = time.perf_counter()
    def elapsed_time(self, end): return (end.at - self.at) * 1e3

@pytest.fixture
def gpu(): return torch.device("cpu")

@pytest.fixture
def clock():
    from gpu_timing import Clock
    return Clock(Event, lambda: None, lambda: None)

@pytest.fixture
def rotate():
    from gpu_timing import rotation
    return lambda make, moved: rotation(make, moved, 0)
"""


def test_the_gpu_benchmarks_run_on_a_cpu(tmp_path):
    """With --quick, and a clock of the host: their baselines agree with ours, and the table is printed."""
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks/ is not here")
    for path in BENCHMARKS.glob("test_gpu_*.py"):
        (tmp_path / path.name).write_text(path.read_text() + PRETEND)
    for name in ("conftest.py", "gpu_timing.py", "packed_encoder.py"):
        (tmp_path / name).write_text((BENCHMARKS / name).read_text())
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-only", "--quick", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "--rootdir", str(tmp_path), str(tmp_path)]
    # Benchmarks do not run in a process of pytest-xdist, and what this run was asked for is not for that one.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
    assert "d2v_fast on cpu" in done.stdout
    for line in (
        "EMA, ",
        "targets, instance norm",
        "smooth-L1, [20, 48], bfloat16",
        "2 blocks, [3, 20, 48]",
        "of limit",
    ):
        assert line in done.stdout
