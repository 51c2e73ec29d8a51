"""How much memory a step takes above what it keeps, beside the released arrangement; the system's own count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = Path(__file__).with_name("measure_peak.py")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux counts and forgets peaks")
def test_a_step_takes_less_than_the_released_arrangement():
    given_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "D2V_FAST_KEEP_MEMORY": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(MEASURE)], env=given_back, capture_output=True, text=True, check=True)
    released, float32, bfloat16, forgetful = map(int, done.stdout.split()[-4:])
    assert released > 20 << 20, "too small to be told from noise"
    assert float32 < 0.75 * released
    assert bfloat16 < 0.5 * released
    # What would be seen if the activations were not computed again in the backward pass.
    assert forgetful > 1.1 * float32
    assert forgetful > 0.8 * released
