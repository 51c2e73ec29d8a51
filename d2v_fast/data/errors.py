"""What can be wrong with data: the whole (stop and say what to do) or one sample (skip it and go on)."""

from __future__ import annotations

import sys


class DataError(ValueError):
    """The data cannot be used as it is; the message names the place and the remedy."""


class TooManySkipped(DataError):
    """More samples cannot be read than `loader.max_skipped` allows; the run can be continued."""


class SampleError(Exception):
    """One sample cannot be read. The loader names it once, leaves it out of its batch and goes on.

    Args:
        name: Path or name of the sample.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


def report(name: str, reason: str) -> None:
    """Tells on stderr that something is left out."""
    tell(f"skipped {name}: {reason}")


def tell(message: str) -> None:
    """Writes one line to stderr; what a file name may hold and a terminal should not see is written as escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    print(f"d2v-fast: {shown}", file=sys.stderr, flush=True)
