"""Finds accesses that nothing orders: between threads of a warp, warps of a block, and blocks.

Every byte (or larger unit, if the kernel never accesses less) remembers its last writer, its last atomic access and
the lowest and highest of its readers, each with the step of the simulation at which that was. An earlier access is
ordered before one of this step if

* the same thread made it,
* it was in the same warp before the last `bar.warp.sync` of the whole warp, or in the same block before its last
  barrier,
* its block released it (fence, then atomic) and this block acquired that (atomic on the same address, then fence).

A release covers what its thread did before the fence and what its block did before its last barrier before that.
Blocks acquire as a whole. Limits: of several releases of one block since an acquire, only the last thread's own
accesses are known, and of more than two readers only two: the first can give a false alarm, the second hide a race.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEVER = -1


class Clock:
    """For each block, up to which step its accesses are known to have happened."""

    def __init__(self, blocks: int) -> None:
        self.block = np.full(blocks, NEVER, np.int64)
        """All threads' accesses before this step."""
        self.thread = np.full(blocks, NEVER, np.int64)
        """... and one thread's,"""
        self.until = np.full(blocks, NEVER, np.int64)
        """... before this one."""

    def join(self, other: Clock) -> None:
        """Knows from now on what the other knows too."""
        np.maximum(self.block, other.block, out=self.block)
        later = other.until > self.until
        self.thread[later], self.until[later] = other.thread[later], other.until[later]

    def learn(self, block: int, before: int, thread: int, until: int) -> None:
        """Knows what one thread releases."""
        self.block[block] = max(self.block[block], before)
        if until > self.until[block]:
            self.thread[block], self.until[block] = thread, until


class Order:
    """What the barriers, fences and atomics of one launch have ordered so far."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.threads = threads  # per block, a multiple of 32
        self.barrier = np.full(blocks, NEVER, np.int64)
        self.warp = np.full(blocks * threads // 32, NEVER, np.int64)
        self._fence = np.full(blocks * threads, NEVER, np.int64)
        self._fence_barrier = np.full(blocks * threads, NEVER, np.int64)
        self._known: dict[int, Clock] = {}
        self._at: dict[int, Clock] = {}
        self._seen: dict[int, list[Clock]] = {}

    def fence(self, threads: NDArray, step: int) -> None:
        """`fence.acq_rel` or `membar` at device scope by these threads."""
        self._fence[threads] = step
        self._fence_barrier[threads] = self.barrier[threads // self.threads]
        for thread in self._seen.keys() & set(threads.tolist()):
            for clock in self._seen.pop(thread):
                self._acquire(thread // self.threads, clock)

    def atomic(self, thread: int, position: int, step: int, *, acquires: bool, releases: bool) -> None:
        """One thread's atomic access to global memory."""
        block = thread // self.threads
        clock = self._at.setdefault(position, Clock(len(self.barrier)))
        seen = Clock(len(self.barrier))
        seen.join(clock)
        if acquires:
            self._acquire(block, seen)
        else:
            self._seen.setdefault(thread, []).append(seen)
        if releases:
            clock.learn(block, int(self.barrier[block]), thread, step)
        elif self._fence[thread] != NEVER:
            clock.learn(block, int(self._fence_barrier[thread]), thread, int(self._fence[thread]))
        if (releases or self._fence[thread] != NEVER) and block in self._known:
            clock.join(self._known[block])

    def _acquire(self, block: int, clock: Clock) -> None:
        self._known.setdefault(block, Clock(len(self.barrier))).join(clock)

    def ordered(self, earlier: NDArray, step: NDArray, now: NDArray) -> NDArray:
        """Whether each earlier access (thread, step) comes before the current one of thread `now`."""
        result = (earlier == NEVER) | (earlier == now)
        left = np.flatnonzero(~result)
        if not left.size:
            return result
        before, at, after = earlier[left], step[left], now[left]
        block_before, block_after = before // self.threads, after // self.threads
        same_warp = before // 32 == after // 32
        good = (block_before == block_after) & (at < self.barrier[block_before])
        good |= same_warp & (at < self.warp[before // 32])
        for block in self._known.keys() & set(np.unique(block_after).tolist()):
            known = self._known[block]
            sure = (at < known.block[block_before]) | (
                (before == known.thread[block_before]) & (at < known.until[block_before])
            )
            good |= (block_after == block) & (block_before != block) & sure
        result[left] = good
        return result


class Shadow:
    """The last accesses of every unit of `unit` bytes of a space."""

    def __init__(self, size: int, unit: int) -> None:
        self.unit = unit
        units = size // unit
        self._writer, self._atomic, self._low, self._high = (np.full(units, NEVER, np.int32) for _ in range(4))
        self._write_step, self._atomic_step, self._low_step, self._high_step = (
            np.zeros(units, np.int64) for _ in range(4)
        )

    def conflict(
        self, order: Order, kind: str, position: NDArray, width: int, threads: NDArray, step: int
    ) -> tuple[int, str] | None:
        """Records accesses of one instruction; returns the first (access, with what) that nothing orders, if any.

        Args:
            order: what is ordered so far.
            kind: "read", "write" or "atomic".
            position: [n] where each access begins.
            width: its bytes.
            threads: [n] numbers within the grid, ascending.
            step: the current step.
        """
        many = max(width // self.unit, 1)
        places = (position[:, None] // self.unit + np.arange(many)).reshape(-1)
        now = np.repeat(threads, many).astype(np.int32)
        found = None
        against = [(self._writer, self._write_step, "write")]
        if kind != "atomic":
            against.append((self._atomic, self._atomic_step, "atomic access"))
        if kind != "read":
            against += [(self._low, self._low_step, "read"), (self._high, self._high_step, "read")]
        for who, when, what in against:
            fine = order.ordered(who[places], when[places], now)
            if not fine.all():
                bad = int((~fine).argmax())
                found = (bad // many, f"the {what} by {self._name(order, int(who[places[bad]]))}")
                break
        if kind == "read":
            self._read(order, places, now, step)
        elif kind == "write":
            self._writer[places], self._write_step[places] = now, step
            self._low[places] = self._high[places] = self._atomic[places] = NEVER
        else:
            self._atomic[places], self._atomic_step[places] = now, step
        return found

    def last_writer(self, position: NDArray) -> NDArray:
        """The thread that wrote last at each position."""
        return self._writer[position // self.unit]

    def _read(self, order: Order, places: NDArray, now: NDArray, step: int) -> None:
        """Adds readers to the set (low, high); forgets those that are ordered before the new ones."""
        low, low_step = self._low[places], self._low_step[places]
        high, high_step = self._high[places], self._high_step[places]
        self._low[places[::-1]], self._low_step[places] = now[::-1], step  # threads ascend, and the last one stays
        self._high[places], self._high_step[places] = now, step
        keep = np.flatnonzero((low != NEVER) & (low < self._low[places]) & ~order.ordered(low, low_step, now))
        self._low[places[keep]], self._low_step[places[keep]] = low[keep], low_step[keep]
        keep = np.flatnonzero((high > self._high[places]) & ~order.ordered(high, high_step, now))
        self._high[places[keep]], self._high_step[places[keep]] = high[keep], high_step[keep]

    @staticmethod
    def _name(order: Order, thread: int) -> str:
        return f"block {thread // order.threads} thread {thread % order.threads}"
