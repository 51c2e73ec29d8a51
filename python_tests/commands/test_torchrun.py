"""The command under torchrun: real processes, killed and stopped, continue as if nothing had been."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
from PIL import Image

import d2v_fast
from d2v_fast import launch, presets
from d2v_fast.config_json import with_overrides

STEPS = 40
WAIT = 500
"""Seconds for a command; the machine may be busy."""
OVERRIDES = {
    "steps": STEPS,
    "log": {"every": 1},
    "checkpoint": {"every": 5},
    "loader": {"batch_size": 4, "accumulation": 2, "threads": 1},
    "model": {"transformer": {"depth": 2, "dim": 32, "ffn_dim": 64, "layer_drop": 0.1}, "target": {"top_k": 2}},
}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(1)
    for i in range(20):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def as_undisturbed(pictures, tmp_path, together, assert_same_run):
    """as_undisturbed(out): the run has the bits of one by two processes that nobody disturbed."""

    def check(out):
        config = with_overrides(presets.preset("vision-tiny"), OVERRIDES)
        answers = together(2, rank_jobs.train, config, pictures, tmp_path / "whole")
        assert {answer.kind for answer in answers} == {"result"}
        assert_same_run(tmp_path / "whole", out, STEPS)

    return check


def flags(values, prefix=""):
    found = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        found += flags(value, f"{name}.") if isinstance(value, dict) else [f"--{name.replace('_', '-')}", str(value)]
    return found


def torchrun(*options, processes=2, meet=("--standalone",), **environment):
    command = [sys.executable, "-m", "torch.distributed.run", *meet, "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(out):
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def workers(agent):
    """Process ids by rank, of those that torchrun has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0") if parent == agent else []
        except OSError:
            continue
        found |= {int(one[5:]): int(folder.name) for one in variables if one.startswith(b"RANK=")}
    return found


def command(pictures, out):
    arguments = ["--data", str(pictures), "--out", str(out), "--no-scale", *flags(OVERRIDES)]
    return ["-m", "d2v_fast", "pretrain", "vision-tiny", *arguments]


@pytest.mark.timeout(1200)  # the imports of five processes, on a machine that may be busy
def test_a_process_that_is_killed_is_started_again_with_the_others(pictures, tmp_path, as_undisturbed):
    out = tmp_path / "run"
    agent = torchrun("--max-restarts", "1", *command(pictures, out))
    wait_for(agent, lambda: lines(out) >= 8)
    os.kill(workers(agent.pid)[1], signal.SIGKILL)
    _, said = agent.communicate(timeout=WAIT)
    assert agent.returncode == 0, said
    assert "d2v-fast: process 0 of 2 waited for the others " in said
    assert "but one of them is gone" in said
    assert said.count(f"continuing {out} after step ") == 1
    assert said.count("2 processes share the 2 micro-batches of a step") == 2  # the main process alone says so
    as_undisturbed(out)


@pytest.mark.long
def test_torchrun_is_stopped_and_another_number_of_processes_continues(pictures, tmp_path):
    out = tmp_path / "run"
    agent = torchrun(*command(pictures, out))
    wait_for(agent, lambda: lines(out) >= 8)
    agent.send_signal(signal.SIGTERM)
    _, said = agent.communicate(timeout=WAIT)
    step = int(said.split("stopped after step ")[1].split()[0])
    assert step < STEPS
    assert (out / "checkpoints" / f"step_{step:08d}" / "state.json").exists()
    agent = torchrun(*command(pictures, out), processes=3)
    _, said = agent.communicate(timeout=WAIT)
    assert agent.returncode == 0, said
    assert f"after step {step} of {STEPS}, with 3 processes instead of 2: the same but for rounding" in said
    assert "3 processes share the 2 micro-batches of a step, cut into 3 pieces each" in said
    assert lines(out) == STEPS


@pytest.mark.long
def test_two_machines_that_are_one(pictures, tmp_path, as_undisturbed):
    """Two torchruns find each other as on a cluster (docs/scale.md): the run is that of two processes of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ("--nnodes", "2", "--rdzv-id", "one", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}")
    out = tmp_path / "run"
    agents = [torchrun(*command(pictures, out), processes=1, meet=meet) for _ in range(2)]
    said = [agent.communicate(timeout=WAIT)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sum("2 processes share the 2 micro-batches of a step" in one for one in said) == 1
    as_undisturbed(out)


@pytest.mark.long
def test_sharded(pictures, tmp_path):
    """From the command to the end of the processes, where gloo's threads may still hold tensors."""
    out = tmp_path / "run"
    agent = torchrun(*command(pictures, out), "--distributed.shard")
    _, said = agent.communicate(timeout=WAIT)
    assert agent.returncode == 0, said
    assert lines(out) == STEPS
    encoder = d2v_fast.load(out)
    assert all(parameter.isfinite().all() for parameter in encoder.parameters())


def test_what_the_processes_are_told(tmp_path):
    """Commands that one process does are refused; threads are the share of the cores, unless somebody has said."""
    agent = torchrun("-m", "d2v_fast", "info")
    _, said = agent.communicate(timeout=WAIT)
    assert agent.returncode != 0
    assert said.count("d2v-fast: info is done by one process: call it without torchrun") == 1

    script = tmp_path / "threads.py"
    script.write_text(
        "from d2v_fast import launch\nprint(f'{launch.threads()} {launch.cores()} {launch.size()}\\n', end='')\n"
    )
    agent = torchrun(str(script))
    answer, _ = agent.communicate(timeout=WAIT)
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    assert answer.splitlines() == [f"None {cores} 2"] * 2


def test_threads_of_a_process(monkeypatch):
    assert (launch.rank(), launch.size(), launch.threads()) == (0, 1, None)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch.threads() is None  # nobody knows of a torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(24)))
    monkeypatch.setattr(launch.Path, "read_bytes", lambda path: b"PATH=/bin\0HOME=/")
    assert launch.threads() == 12
    monkeypatch.setattr(launch.Path, "read_bytes", lambda path: b"PATH=/bin\0OMP_NUM_THREADS=1")
    assert launch.threads() is None
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launch.threads() is None
