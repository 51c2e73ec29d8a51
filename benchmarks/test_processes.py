"""Several processes against one: the same step, shared by 1 to 4 of them over gloo with a thread each.

Two costs of a step: CPU seconds, of all processes and of gloo's threads together, and seconds by the clock. Where there
are fewer free cores than processes, only the CPU seconds say something; what processes wait for is not in them. The
counts of processes take turns, so load from elsewhere hits all of them.

    OMP_NUM_THREADS=1 pytest benchmarks/test_processes.py --benchmark-only   # --quick: a tiny model, 1 and 2
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource
from d2v_fast.data.deal import Deal
from d2v_fast.modalities import open_data, open_loader
from d2v_fast.run.metrics import Clock
from d2v_fast.training.distributed.feed import fetch
from d2v_fast.training.distributed.join import joined
from d2v_fast.training.loop import Loop
from d2v_fast.training.pretraining_task import PretrainingTask

Costs = dict[str, list[float]]
"""("whole" or "sharded") -> CPU seconds of a step in all processes, seconds by the clock in the slowest."""

MICRO_BATCHES = 12
"""Of a step: 1, 2, 3 and 4 processes share them without cutting."""


@pytest.mark.benchmark(group="processes")
def test_processes(quick, benchmark, note):
    sizes, rounds, preset, steps = ((1, 2), 1, "vision-tiny", 1) if quick else ((1, 2, 3, 4), 3, "vision-small", 4)

    def run() -> dict[int, list[Costs]]:
        found: dict[int, list[Costs]] = {size: [] for size in sizes}
        for _ in range(rounds):
            for size in sizes:
                found[size].append(started(size, preset, steps))
        return found

    taken = benchmark.pedantic(run, rounds=1, iterations=1)
    alone = [statistics.median(one["whole"][i] for one in taken[1]) for i in (0, 1)]
    for size in sizes:
        for kind in taken[size][0]:
            cpu, clock = (statistics.median(one[kind][i] for one in taken[size]) for i in (0, 1))
            note(
                f"{size} process(es), {kind}: {cpu:.2f} CPU s a step, {alone[0] / cpu:.0%} of one's efficiency; "
                f"{clock:.2f} s by the clock, {alone[1] / clock:.2f} times as fast",
                cpu,
            )


def started(size: int, preset: str, steps: int) -> Costs:
    """The costs of a step that `size` processes share."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, preset, str(steps)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * size
    found: Costs = json.loads(said[0].splitlines()[-1])
    return found


def share(preset: str, steps: int) -> Costs:
    """One of the processes; the first step of each kind is not counted."""
    torch.set_num_threads(1)
    world, device = joined("cpu")
    random, found = np.random.default_rng(0), Costs()
    pictures = ArraySource("vision", [random.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(200)])
    for kind in ("whole", "sharded")[: min(2, world.size)]:
        fields = {"loader.accumulation": MICRO_BATCHES, "loader.batch_size": 4, "distributed.shard": kind == "sharded"}
        config = with_overrides(presets.preset(preset), fields | {"precision.autocast": "float32"})
        task, deal = PretrainingTask(config), Deal(config.loader, world.rank, world.size)
        task.to(device)
        loop = Loop(config, task, device, world, deal)
        source = open_data(pictures, config, None)
        with open_loader(config, source, device=device, deal=deal) as loader:
            for step in range(steps + 1):
                if step == 1:
                    world.gather(None, "before the steps")
                    cpu, clock = time.process_time(), time.perf_counter()
                batches, counts = fetch(world, task, loader, step, linked=loop.kept.linked)
                loop.step(step, batches, Clock(), counts)
        own = [(time.process_time() - cpu) / steps, (time.perf_counter() - clock) / steps]
        every = world.gather(own, "behind the steps")
        found[kind] = [sum(one[0] for one in every), max(one[1] for one in every)]
    return found


if __name__ == "__main__":
    print(json.dumps(share(sys.argv[1], int(sys.argv[2]))))
