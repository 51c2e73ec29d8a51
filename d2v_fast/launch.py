"""What torchrun tells each of the processes that it starts. Light: it is asked before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path


def rank() -> int:
    """Which of the processes of all machines this is, from 0; 0 without torchrun."""
    return _number("RANK", 0)


def size() -> int:
    """How many processes there are on all machines; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Which of the processes of this machine this is, from 0."""
    return _number("LOCAL_RANK", rank())


def local_size() -> int:
    """How many processes there are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def cores() -> int:
    """Cores for this process: its share of those that the machine gives to all of them, one at least."""
    return max(1, len(os.sched_getaffinity(0)) // local_size())


def threads() -> int | None:
    """How many threads this process should compute with; None: what it would do anyway.

    torchrun sets OMP_NUM_THREADS to 1 where nobody has set it. Then each process takes its share of the cores. A number
    that torchrun was given itself is in the environment that it was started with, and stays.
    """
    if size() == 1 or os.environ.get("OMP_NUM_THREADS") != "1" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    try:
        given = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:  # another system: nobody can say, and one thread is what torchrun's warning announced
        return None
    return None if any(one.startswith(b"OMP_NUM_THREADS=") for one in given) else cores()


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default
