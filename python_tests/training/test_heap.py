"""What the heap keeps, counted in page faults: the kernel's own count, which no other program changes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from d2v_fast.training.heap import keep_freed_memory
def faults(*sizes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.ones(n << 18) for n in sizes]  # MB; all at once, then none
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
small, large = (5, 20, 20, 20), (100,)  # more than all of the small ones leave behind
faults(*small), print(faults(*small)), print(keep_freed_memory()), faults(*small), print(faults(*small))
faults(*large), print(faults(*large)), keep_freed_memory([torch.empty(40 << 18)]), faults(*large), print(faults(*large))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc, on Linux")
def test_tensors_reuse_touched_memory():
    # By itself glibc gives large blocks back or not, by what else lies at the end of the heap; now it always does.
    surely = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=surely, capture_output=True, text=True, check=True)
    before, told, after, large_before, large_after = done.stdout.split()
    if told == "False":
        pytest.skip("this C library has no mallopt")
    assert int(before) > 10_000
    assert int(after) < 100
    assert int(large_before) > 10_000
    assert int(large_after) < 100


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc, on Linux")
def test_the_environment_can_say_no():
    surely = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10), "D2V_FAST_KEEP_MEMORY": "0"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=surely, capture_output=True, text=True, check=True)
    before, told, after = done.stdout.split()[:3]
    assert told == "False"
    assert int(after) > 0.9 * int(before) > 9_000
