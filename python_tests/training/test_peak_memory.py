"""How much memory a step takes above what it keeps, beside the released arrangement; the system's own count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = Path(__file__).with_name("measure_peak.py")


needs_peaks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux counts and forgets peaks"
)


@pytest.fixture(scope="module")
def peaks():
    given_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "D2V_FAST_KEEP_MEMORY": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(MEASURE)], env=given_back, capture_output=True, text=True, check=True)
    names = ("released", "float32", "bfloat16", "forgetful", "kept", "again")
    return dict(zip(names, map(int, done.stdout.split()[-len(names) :]), strict=True))


@needs_peaks
def test_a_step_takes_less_than_the_released_arrangement(peaks):
    released, float32 = peaks["released"], peaks["float32"]
    assert released > 20 << 20, "too small to be told from noise"
    assert float32 < 0.62 * released
    assert peaks["bfloat16"] < 0.4 * released
    # What would be seen if the activations were not computed again in the backward pass.
    assert peaks["forgetful"] > 1.1 * float32
    assert peaks["forgetful"] > 0.8 * released


@needs_peaks
def test_blocks_that_are_computed_again_take_less(peaks):
    assert peaks["kept"] > 20 << 20, "too small to be told from noise"
    assert peaks["again"] < 0.5 * peaks["kept"]
