"""What the benchmarks share: baselines taken in turn in one process, the machine's own limit, one table at the end.

`pytest benchmarks/ --benchmark-only` runs Base shapes on OMP_NUM_THREADS threads; with `--quick` tiny shapes and one
round, to see that everything runs.

A round runs a streaming copy, then every baseline, then ours, so that load from elsewhere hits all of them alike; each
runs three times and the third run is timed, so that all find the caches and the heap as they left them themselves (one
run is not enough to win a large cache back from the one before). The heap keeps freed memory, as in the trainer. A
figure is the median over the rounds. `GB/s` counts each input read once and each output written once, and `limit` is
its share of what the streaming (non-temporal) copy reached in the same rounds.

The files test_gpu_*.py are the same on a GPU (gpu_timing.py) and are skipped without one.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2v_fast import _C
from d2v_fast.training.heap import keep_freed_memory

sys.path.append(str(Path(__file__).parent))

from gpu_timing import Clock, DeviceCopy, gpu_clock, in_turn, rotation

_RESULTS = pytest.StashKey[dict[str, list["Result"]]]()
"""Heading of a table to its lines."""


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="tiny shapes and one round: that they run, not how fast")
    parser.addoption("--plots", metavar="FOLDER", help="where plots are written; by default a temporary folder")


def pytest_configure(config):
    keep_freed_memory()
    config.stash[_RESULTS] = {}


def add_line(config, heading: str, result: Result) -> None:
    """A line for the table under `heading`."""
    config.stash[_RESULTS].setdefault(heading, []).append(result)


def cpu_heading() -> str:
    return f"{torch.get_num_threads()} thread(s), {_C.isa()}"


@pytest.fixture
def quick(request) -> bool:
    return request.config.getoption("--quick")


@pytest.fixture
def plots_folder(request, tmp_path) -> Path:
    """Where a benchmark writes its plots."""
    folder = Path(request.config.getoption("--plots") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def compiled(quick):
    """torch.compile for baselines; with --quick without inductor, which takes long."""

    def wrap(function: Callable, **options) -> Callable:
        return torch.compile(function, backend="eager") if quick else torch.compile(function, **options)

    return wrap


@dataclass
class Result:
    """One line of the table."""

    name: str
    seconds: float
    moved: int | None
    limit: float
    """Bytes per second of the copy."""
    baselines: dict[str, float] = field(default_factory=dict)

    def share(self) -> float | None:
        return None if self.moved is None else self.moved / self.seconds / self.limit


class StreamingCopy:
    """The yardstick: a copy between two buffers that no cache holds, written past the caches."""

    def __init__(self, size: int) -> None:
        self.source, self.target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
        self.moved = 2 * size

    def __call__(self) -> None:
        _C.streaming_copy(self.target.data_ptr(), self.source.data_ptr(), self.source.numel(), torch.get_num_threads())


@pytest.fixture(scope="session")
def streaming_copy(request) -> StreamingCopy:
    return StreamingCopy(1 << 20 if request.config.getoption("--quick") else 128 << 20)


@pytest.fixture
def compare(benchmark, quick, streaming_copy, request):
    """compare(name, ours, {"baseline": function, ...}, moved=bytes, rounds=15): runs them in turn, notes a line.

    With `clock=time.process_time` and the mark `benchmark(timer=time.process_time)` a time is that of all threads.
    """

    def run(
        name: str,
        ours: Callable[[], object],
        baselines: dict[str, Callable[[], object]],
        *,
        moved: int | None,
        rounds: int = 15,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Result:
        rounds = 1 if quick else rounds
        others = {"streaming copy": streaming_copy, **baselines}
        seconds: dict[str, list[float]] = {other: [] for other in others}
        for function in (*others.values(), ours) * (1 if quick else 3):  # compilation, page faults, caches
            function()

        def turn() -> None:
            for other, function in others.items():
                function()
                function()
                start = clock()
                function()
                seconds[other].append(clock() - start)
            ours()
            ours()

        benchmark.pedantic(ours, setup=turn, rounds=rounds, iterations=1)
        if benchmark.stats is None:  # --benchmark-disable
            return Result(name, float("nan"), moved, float("nan"))
        median = {other: statistics.median(values) for other, values in seconds.items()}
        limit = streaming_copy.moved / median.pop("streaming copy")
        result = Result(name, benchmark.stats.stats.median, moved, limit, median)
        benchmark.extra_info.update(
            threads=torch.get_num_threads(),
            isa=_C.isa(),
            limit_gb_per_second=limit / 1e9,
            share_of_limit=result.share(),
            baselines_ms={other: value * 1e3 for other, value in median.items()},
        )
        add_line(request.config, cpu_heading(), result)
        return result

    return run


@pytest.fixture
def gpu() -> torch.device:
    """The GPU; a benchmark that asks for it is skipped without one."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here (torch.cuda.is_available() is False)")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def clock() -> Clock:
    return gpu_clock()


@pytest.fixture
def rotate(gpu, quick):
    """rotate(make, moved): sets of tensors, more than the GPU's cache holds; with --quick two."""
    cache = 0 if quick else torch.cuda.get_device_properties(gpu).L2_cache_size
    return lambda make, moved: rotation(make, moved, cache)


@pytest.fixture
def compare_on_gpu(benchmark, gpu, quick, clock, request):
    """compare_on_gpu(name, ours, {"baseline": function, ...}, moved=bytes, rounds=50): as `compare`, on the GPU.

    Functions take the number of the round, and choose their set of tensors by it.
    """

    def run(
        name: str,
        ours: Callable[[int], object],
        baselines: dict[str, Callable[[int], object]],
        *,
        moved: int | None,
        rounds: int = 50,
    ) -> Result:
        copy = DeviceCopy(gpu, 1 << 20) if quick else DeviceCopy(gpu)
        functions = {**baselines, "device copy": copy, name: ours}
        seconds = benchmark.pedantic(in_turn, args=(functions, 2 if quick else rounds, clock), rounds=1)
        limit = copy.moved / seconds.pop("device copy")
        result = Result(name, seconds.pop(name), moved, limit, seconds)
        benchmark.extra_info.update(
            device=torch.cuda.get_device_name(gpu) if gpu.type == "cuda" else str(gpu),
            ms=result.seconds * 1e3,
            limit_gb_per_second=limit / 1e9,
            share_of_limit=result.share(),
            baselines_ms={other: value * 1e3 for other, value in seconds.items()},
        )
        add_line(request.config, benchmark.extra_info["device"], result)
        return result

    return run


def pytest_terminal_summary(terminalreporter, config):
    write = terminalreporter.write_line
    for heading, results in config.stash[_RESULTS].items():
        terminalreporter.section(f"d2v_fast on {heading}, torch {torch.__version__}")
        if config.getoption("--quick"):
            write("--quick: tiny shapes, one round; the figures mean nothing")
        for result in results:
            line = f"{result.name:<58} {result.seconds * 1e3:9.3f} ms"
            if result.moved is not None:
                line += f" {result.moved / result.seconds / 1e9:7.1f} GB/s {result.share():6.0%} of limit"
                line += f" ({result.limit / 1e9:.1f} GB/s)"
            write(line)
            for other, seconds in result.baselines.items():
                write(f"    {seconds / result.seconds:6.2f}x  {other:<60} {seconds * 1e3:9.3f} ms")


@pytest.fixture
def note(request):
    """note(text, seconds): one more line of the table, for what is measured in another way."""

    def run(text: str, seconds: float) -> None:
        add_line(request.config, cpu_heading(), Result(text, seconds, None, float("nan")))

    return run


@pytest.fixture
def compare_cpu(benchmark, quick, request):
    """compare_cpu(name, ours, {"baseline": function, ...}, samples=n): CPU time of a sample, workers included.

    Each function makes `samples` samples, in this process or with others that it keeps; they run in turn. A figure is
    the median over the rounds of the CPU time of this process and its children, divided by `samples`.
    """

    def run(
        name: str,
        ours: Callable[[], object],
        baselines: dict[str, Callable[[], object]],
        *,
        samples: int,
        rounds: int = 7,
    ) -> Result:
        rounds = 1 if quick else rounds
        seconds: dict[str, list[float]] = {other: [] for other in (*baselines, "")}
        for function in (*baselines.values(), ours):  # caches, pools, read-ahead
            function()
            _settled()

        def timed(other: str, function: Callable[[], object]) -> None:
            start = _cpu_seconds()
            function()
            seconds[other].append((_settled() - start) / samples)

        def turn() -> None:
            for other, function in baselines.items():
                timed(other, function)

        benchmark.pedantic(lambda: timed("", ours), setup=turn, rounds=rounds, iterations=1)
        if benchmark.stats is None:  # --benchmark-disable
            return Result(name, float("nan"), None, float("nan"))
        median = {other: statistics.median(values) for other, values in seconds.items()}
        result = Result(name, median.pop(""), None, float("nan"), median)
        benchmark.extra_info.update(
            cpu_ms_per_sample=result.seconds * 1e3,
            baselines_cpu_ms_per_sample={other: value * 1e3 for other, value in median.items()},
        )
        add_line(request.config, "CPU time of a sample, workers included", result)
        return result

    return run


def _settled() -> float:
    """The CPU time when all that was begun ahead is done: a function pays for its own read-ahead."""
    before, now = -1.0, _cpu_seconds()
    while now - before > 2e-3:
        time.sleep(0.1)
        before, now = now, _cpu_seconds()
    return now


def _cpu_seconds() -> float:
    """Of this process with all its threads, of its children that have ended, and of those that live."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system time
    return total


@pytest.fixture
def size_of():
    """Bytes of some tensors together."""

    def size(*tensors: Tensor) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    return size
