"""Time on a GPU: events around each call, baselines in turn, buffers in rotation so that no cache holds them.

The device is kept busy at the start of every round while the host queues the whole of it: so a figure is the time
of the device, also for baselines that launch hundreds of small kernels, whose cost on the host is not counted here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Set = TypeVar("Set")

STALL_CYCLES = 40_000_000
"""About 20 ms: more than the host needs to queue a round."""

COPY_BYTES = 512 << 20


@dataclass(frozen=True)
class Clock:
    """What the timing needs of a device; the tests put another one in its place."""

    event: Callable[[], Any]
    """Makes an event with record() and elapsed_time(later event), in milliseconds."""

    synchronize: Callable[[], None]
    """Waits until the device has done what was queued."""

    stall: Callable[[], None]
    """Keeps the device busy for a while, without waiting for it."""


def gpu_clock() -> Clock:
    return Clock(
        lambda: torch.cuda.Event(enable_timing=True), torch.cuda.synchronize, lambda: torch.cuda._sleep(STALL_CYCLES)
    )


def in_turn(functions: Mapping[str, Callable[[int], object]], rounds: int, clock: Clock) -> dict[str, float]:
    """Median seconds of each function; function(n) works on set n of the rotation, modulo their number."""
    for function in functions.values():
        for turn in range(3):  # compilation, tables, allocations
            function(turn)
    spans: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds):
        clock.synchronize()
        clock.stall()
        events = []
        for name, function in functions.items():
            start, end = clock.event(), clock.event()
            start.record()
            function(turn)
            end.record()
            events.append((name, start, end))
        clock.synchronize()
        for name, start, end in events:
            spans[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in spans.items()}


def rotation(make: Callable[[int], Set], moved: int, cache: int) -> list[Set]:
    """As many sets of tensors, made from seeds 0, 1, ..., as hold more than twice the bytes of the device's cache.

    Args:
        make: (seed) to one set.
        moved: bytes that one call moves.
        cache: bytes of the largest cache.
    """
    return [make(seed) for seed in range(2 + 2 * cache // max(moved, 1))]


class DeviceCopy:
    """The yardstick: a copy between two buffers that no cache holds."""

    def __init__(self, device: torch.device, size: int = COPY_BYTES) -> None:
        self.source = torch.ones(size, dtype=torch.uint8, device=device)
        self.target = torch.zeros(size, dtype=torch.uint8, device=device)
        self.moved = 2 * size

    def __call__(self, turn: int) -> None:
        self.target.copy_(self.source)
