"""What the simulator raises; every message ends with the PTX line that was executing."""

from __future__ import annotations


class Fault(Exception):
    """The kernel did something that is wrong on every GPU: a bad address, an uninitialised read, a deadlock."""


class Race(Fault):
    """Two threads touch the same bytes, one of them writes, and nothing orders the two."""


class NotSimulated(Exception):
    """The PTX uses something this simulator does not know; it never guesses."""
