"""Occupancy, by hand."""

from __future__ import annotations

from occupancy import occupancy


def test_occupancy_by_hand():
    # 40 registers for each thread, 10 kB for 8 warps: 6 blocks of 8 warps in 64 k registers.
    assert occupancy(33, 8, 0, 90) == 48
    assert occupancy(33, 8, (57 << 10) - 1024, 90) == 32
    assert occupancy(16, 1, 0, 90) == 32
