"""Counts what memory would have to move.

* DRAM: every 32-byte sector once; the L2 is taken to be infinite and cold.
* Requests: for each request of a warp the distinct sectors it touches. That is what goes between L1 and L2 if the L1
  keeps nothing, so scalar or badly spread accesses show here, and every second pass over the data.
* Sectors: the same, but the warps of a block that execute one load together share what it reads. That is all that is
  asked of an L1: to hold the sectors of a single instruction. Stores are not merged.
* Shared memory: wavefronts, against the fewest possible.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SECTOR = 32


@dataclass
class Site:
    """The accesses of one PTX instruction to global memory."""

    text: str
    width: int
    """Bytes each thread accesses at once."""
    requests: int = 0
    sectors: int = 0
    """What its requests touch."""
    shared: int = 0
    """The same, with what several warps of a block load together counted once."""
    bytes: int = 0


@dataclass
class Traffic:
    """What one launch moved (simulated, not measured)."""

    memory_bytes: int
    sites: dict[int, Site] = field(default_factory=dict)
    """By PTX line."""
    shared_wavefronts: int = 0
    shared_least: int = 0
    instructions: int = 0
    """Warp instructions that were executed."""

    def __post_init__(self) -> None:
        count = self.memory_bytes // SECTOR
        self._read, self._written = np.zeros(count, bool), np.zeros(count, bool)

    @property
    def dram_read(self) -> int:
        """Bytes of the sectors that are read before the kernel itself writes them."""
        return int(self._read.sum()) * SECTOR

    @property
    def dram_written(self) -> int:
        """Bytes of the sectors that are written."""
        return int(self._written.sum()) * SECTOR

    @property
    def sector_bytes(self) -> int:
        """Bytes that go between L1 and L2 if the L1 serves the warps that load together."""
        return sum(site.shared for site in self.sites.values()) * SECTOR

    @property
    def request_bytes(self) -> int:
        """Bytes that go between L1 and L2 if the L1 keeps nothing."""
        return sum(site.sectors for site in self.sites.values()) * SECTOR

    def global_access(
        self, line: int, text: str, kind: str, position: NDArray, width: int, warp: NDArray, block: NDArray
    ) -> None:
        """Counts one instruction's accesses; `warp` and `block` ascend within a batch."""
        site = self.sites.setdefault(line, Site(text, width))
        sector = position // SECTOR
        touched = _distinct(warp, sector)
        site.requests += 1 + int(np.count_nonzero(np.diff(warp)))
        site.sectors += touched
        site.shared += _distinct(block, sector) if kind == "read" else touched
        site.bytes += width * position.size
        if kind != "write":
            self._read[sector] |= ~self._written[sector]
        if kind != "read":
            self._written[sector] = True

    def shared_access(self, address: NDArray, width: int, warp: NDArray, lane: NDArray) -> None:
        """Counts the wavefronts of one instruction: 32 banks of 4 bytes; 16 bytes a thread go in quarter warps."""
        phases = max(width // 4, 1)
        group = warp.astype(np.int64) * phases + lane * phases // 32
        words = np.unique(((group << 24)[:, None] + (address[:, None] // 4 + np.arange(phases))).reshape(-1))
        banks, uses = np.unique((words >> 24 << 5) + (words & 31), return_counts=True)
        starts = np.flatnonzero(np.diff(banks >> 5, prepend=-1))
        self.shared_wavefronts += int(np.maximum.reduceat(uses, starts).sum())
        self.shared_least += int(starts.size)


def _distinct(group: NDArray, sector: NDArray) -> int:
    """How many different sectors the groups (warps or blocks) touch, each group counted for itself."""
    key = (group.astype(np.int64) << 40) + sector
    if (np.diff(key) < 0).any():
        key = np.sort(key)
    return 1 + int(np.count_nonzero(np.diff(key)))
