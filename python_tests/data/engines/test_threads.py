"""Threads that read: torch's own number of threads stays what it was, and one that cannot start blocks nobody."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from d2v_fast.data.engines.threads import Readers, _start_pool
from d2v_fast.errors import DataError


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_torch_computes_on_one_core_in_each_and_as_before_elsewhere(two_threads):
    pool = _start_pool(3)
    assert {pool.submit(torch.get_num_threads).result() for _ in range(12)} == {1}
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2
    pool.shutdown()


def test_two_pools_started_at_once_leave_torch_its_threads(two_threads):
    for _ in range(30):
        both, seen = threading.Barrier(2), []

        def start(both=both, seen=seen):
            both.wait()
            pool = _start_pool(2)
            seen.append(torch.get_num_threads())
            pool.shutdown()

        starters = [threading.Thread(target=start) for _ in range(2)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        assert seen == [2, 2]
        assert torch.get_num_threads() == threads_of_a_new_thread() == 2


@pytest.mark.parametrize("last", [0, 2])
def test_a_thread_that_cannot_start_is_an_error_and_leaves_nothing_behind(two_threads, monkeypatch, last):
    original, started = threading.Thread.start, []

    def start(self):
        if self.name.startswith("d2v-data"):
            if len(started) == last:
                raise RuntimeError("can't start new thread")
            started.append(self)
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(
        DataError,
        match=rf"only {last} of loader\.threads = 4 threads could be started \(can't start new thread\): lower",
    ):
        Readers(4)
    assert not any(thread.is_alive() for thread in started)
    monkeypatch.undo()
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2
    Readers(2).close()


def test_a_process_whose_threads_cannot_start_ends():
    program = """
import threading
original, count = threading.Thread.start, iter(range(100))
def start(self):
    if self.name.startswith("d2v-data") and next(count) == 2:
        raise RuntimeError("can't start new thread")
    original(self)
threading.Thread.start = start
from d2v_fast.data.engines.threads import Readers
Readers(4)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "DataError: only 2 of loader.threads = 4" in ended.stderr
    assert ended.returncode == 1
