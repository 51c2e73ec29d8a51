"""The limits that the simulated traffic of every kernel must keep, and the figures that docs/kernels.md tells.

A kernel's form says what it must move at least; three floors, each at least as large as the one before:

* DRAM: every byte of its inputs and outputs once;
* sectors: what each block must read, so whatever several blocks need (row numbers, statistics) once for each;
* requests: what each warp must read.
"""

from __future__ import annotations

from typing import NamedTuple

from ptx import Report

DRAM_LIMIT, SECTOR_LIMIT = 1.02, 1.1


class Ratios(NamedTuple):
    """Simulated bytes, times the floor of each kind."""

    dram: float
    sectors: float
    requests: float

    def cells(self) -> dict[str, str]:
        """As docs/kernels.md writes them."""
        return {"DRAM": f"{self.dram:.3f}", "sectors": f"{self.sectors:.3f}", "requests": f"{self.requests:.3f}"}


def check_traffic(report: Report, floor: int, sectors: int | None = None, requests: int | None = None) -> Ratios:
    """Compares what a launch moved with its floors in bytes; each that is not given is the one before.

    Raises:
        AssertionError: more than the limits, with the access that loses most; or less than a floor, which then counts
            bytes that need not move.
    """
    traffic = report.traffic
    sectors = sectors or floor
    requests = requests or sectors
    moved = traffic.dram_read + traffic.dram_written
    ratios = Ratios(moved / floor, traffic.sector_bytes / sectors, traffic.request_bytes / requests)
    worst = max(traffic.sites.values(), key=lambda site: 32 * site.sectors - site.bytes)
    for name, ratio in ratios._asdict().items():
        limit = DRAM_LIMIT if name == "dram" else SECTOR_LIMIT
        assert 0.999 <= ratio <= limit, f"{name}: {ratio:.3f} times the floor; most is lost in {worst.text!r}"
    return ratios
