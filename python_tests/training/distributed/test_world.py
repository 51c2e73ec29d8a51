"""What processes say to each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import rank_jobs
import torch
from torch.distributed import HashStore

from d2v_fast.errors import ConfigError, ProcessLost
from d2v_fast.training.distributed.join import joined, meet
from d2v_fast.training.distributed.world import World


def values(answers):
    assert [answer.kind for answer in answers] == ["result"] * len(answers), answers
    return [answer.value for answer in answers]


def test_one_process_does_nothing(monkeypatch):
    world, numbers = World(), [2.0]
    with world.together("in a test", numbers):
        numbers[0] += 1
    assert numbers == [3.0]
    assert world.alone("in a test", lambda: "done") == "done"
    assert world.gather({"a": 1}, "in a test") == [{"a": 1}]
    assert world.mean({"a": None, "b": 2.0}, "in a test") == {"a": None, "b": 2.0}
    with pytest.raises(ZeroDivisionError), world.together("in a test"):
        _ = 1 / 0


def test_processes_of_an_earlier_start_are_not_taken_for_those_of_this_one():
    """torchrun keeps its store: what the dead have said in it is still there."""
    store = HashStore()
    words = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            found = set(pool.map(lambda rank: meet(store, rank, 3, 60), range(3)))
        assert len(found) == 1
        words += found
    assert len(set(words)) == 3
    store.set("d2v_fast/hello/1", "said by a process that is dead")
    with pytest.raises(ProcessLost, match=r"of 3 processes these did not come within 0.3 s .*: 1, 2"):
        meet(store, 0, 3, 0.3)


def test_they_add_and_tell(together):
    script = """
numbers = [float(world.rank), 2.0**52]
with world.together("in a test", numbers):
    numbers[0] += 10
told = world.alone("in a test", lambda: {"by": world.rank, "none": None})
means = world.mean({"a": float(world.rank), "b": None, "c": 5.0 if world.rank == 2 else None}, "in a test")
world.same([1, "x"], "the test")
answer = numbers, told, world.gather("é" * world.rank, "in a test"), means
"""
    expected = [33.0, 3 * 2.0**52], {"by": 0, "none": None}, ["", "é", "éé"], {"a": 1.0, "b": None, "c": 5.0}
    assert values(together(3, rank_jobs.talk, script)) == [expected] * 3


@pytest.mark.parametrize("failing", [0, 1])
def test_if_one_fails_all_leave_with_its_reason(together, failing):
    script = f"""
with world.together("in a test"):
    if world.rank == {failing}:
        raise KeyError("no")
"""
    answers = together(3, rank_jobs.talk, script)
    assert answers[failing].value[0] == "KeyError"
    for rank in {0, 1, 2} - {failing}:
        assert answers[rank].value[:2] == ("ProcessFailed", f"process {failing} of 3 failed in a test: KeyError: 'no'")


def test_what_the_main_process_cannot_do_alone(together):
    script = """
def full():
    raise OSError(28, "No space left on device", "/there")
world.alone("when it wrote", full)
"""
    main, other = together(2, rank_jobs.talk, script)
    assert main.value[0] == "OSError"
    said = "process 0 of 2 failed when it wrote: [Errno 28] No space left on device: '/there'"
    assert other.value[:2] == ("ProcessFailed", said)


def test_another_value_is_refused_by_name(together):
    script = "world.same({'seed': world.rank // 2}, 'the configuration')"
    main, equal, other = together(3, rank_jobs.talk, script)
    assert other.value[0] == ConfigError.__name__
    assert "the configuration of process 2 on " in other.value[1]
    for answer in (main, equal):
        assert answer.value[0] == "ProcessFailed"
        assert "process 2 of 3 failed at the comparison of the configuration" in answer.value[1]


def test_a_process_that_does_not_come_is_waited_for_and_named(together):
    script = """
import time
if world.rank == 1:
    time.sleep(10)
with world.together("in step 3"):
    pass
"""
    main = together(2, rank_jobs.talk, script, wait=2)[0]
    said = "process 0 of 2 waited for the others in step 3, but they did not come within 2 s (D2V_FAST_WAIT_SECONDS)"
    assert main.value[0] == "ProcessLost"
    assert main.value[1].startswith(said)


PLACES = ["world.alone('when it read', lambda: time.sleep(60))", "world.gather(1, 'when it read')"]


@pytest.mark.parametrize("place", PLACES)
def test_a_process_that_dies_is_noticed_at_once(together, place):
    """Also by those that would wait for the main process for days."""
    script = f"""
import os, signal, threading, time
if world.rank == 0:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    time.sleep(60 if "gather" in {place!r} else 0)
{place}
"""
    main, other = together(2, rank_jobs.talk, script)
    assert main.kind == "gone"
    assert other.value[0] == "ProcessLost"
    assert "waited for the others when it read, but one of them is gone" in other.value[1]


def test_a_budget_is_measured_together(together, make_data, tmp_path):
    """Each process settles for itself, on the same times."""
    answers = together(2, rank_jobs.settle_for, "vision-small", make_data("vision"), tmp_path / "run", "2h")
    one, other = values(answers)
    assert one == other
    assert one["steps"] >= 300
    assert not (tmp_path / "run").exists()


def test_there_are_fewer_gpus_than_processes(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"there are 4 processes on .* and 2 GPUs"):
        joined("cuda")
