"""The simulator of CUDA threads: right kernels pass in every form, planted faults are caught and named."""

from __future__ import annotations

import re

import pytest
from cuda_cpu_build import SIMULATOR, Builder, run

FORMS = ["plain", "ucontext", "address", "thread"]
SELF_TEST = SIMULATOR / "self_test.cpp"


@pytest.fixture(scope="session")
def self_test(tmp_path_factory):
    """self_test(form, case, schedules): the finished process."""
    builder = Builder(tmp_path_factory.mktemp("self_test"))

    def execute(form, case, schedules=10):
        if why := builder.missing(form):
            pytest.skip(why)
        return run(builder.build(form, [SELF_TEST]), case, str(schedules))

    return execute


@pytest.mark.parametrize("case", ["sum", "warps", "exchange", "atomics", "launches"])
@pytest.mark.parametrize("form", FORMS)
def test_right_kernels_pass(form, case, self_test):
    done = self_test(form, case, 2 if form == "thread" else 20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("case", ["no first barrier", "no second barrier", "swapped lane", "uninitialised shared"])
@pytest.mark.parametrize("form", ["plain", "ucontext"])
def test_numbers_are_wrong(form, case, self_test):
    done = self_test(form, case, 20)
    assert done.returncode == 1
    assert "gave wrong numbers" in done.stdout


@pytest.mark.parametrize(
    "case",
    ["no first barrier", "no second barrier", "no ticket barrier", "no fence", "sum without atomics", "no syncwarp"],
)
def test_races_are_seen(case, self_test):
    done = self_test("thread", case, 3)
    assert done.returncode == 66
    assert "data race" in done.stderr
    assert "self_test.cpp:" in done.stderr


@pytest.mark.parametrize("case", ["bound", "shared overrun"])
def test_addresses_are_checked(case, self_test):
    done = self_test("address", case, 1)
    assert done.returncode == 1
    assert "self_test.cpp:" in done.stderr
    assert "heap-buffer-overflow" in done.stderr or "index 4 out of bounds" in done.stderr


@pytest.mark.parametrize(
    ("case", "report", "places"),
    [
        (
            "divergent barrier",
            "threads wait at different barriers",
            ["0 to 39: at __syncthreads", "40 to 63: at __sync"],
        ),
        ("absent lanes", "a mask that names absent lanes", ["1 to 1: at a warp operation", "2 to 2: finished"]),
        ("different operations", "lanes of one mask at different warp operations", ["0 to 0: at a warp"]),
        ("lane outside its mask", "a lane that is not in its own mask", []),
        ("read outside the mask", "a shuffle reads a lane outside the mask", []),
    ],
)
def test_threads_that_never_meet_are_named(case, report, places, self_test):
    lines = SELF_TEST.read_text().splitlines()
    for form in ("plain", "ucontext"):
        done = self_test(form, case, 1)
        assert done.returncode == 66
        assert report in done.stderr
        for place in places:
            assert place in done.stderr
        stops = re.findall(r"self_test\.cpp:(\d+)", done.stderr)
        assert stops
        assert all("sync(" in lines[int(stop) - 1] or "__syncthreads" in lines[int(stop) - 1] for stop in stops)
