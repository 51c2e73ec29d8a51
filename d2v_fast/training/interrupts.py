"""Signals that end a run become a flag that the loop looks at between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from d2v_fast.training.distributed.world import World

ALWAYS = (signal.SIGINT, signal.SIGTERM)
"""Signals that are caught whatever the program did with them before."""

UNLESS_TAKEN = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What a lost connection and schedulers send (Slurm's --signal): caught where they would end the process. A program
that ignores one (nohup) or has a handler of its own keeps that."""


class StopSignals:
    """Context manager: the first signal is only noted, a second SIGINT (Ctrl-C) interrupts at once.

    Outside the main thread signals cannot be caught, so there nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal that came to this process, or None."""
        self._heard: tuple[int, int] | None = None  # of several processes: which one was told to stop, and the signal
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in (*ALWAYS, *UNLESS_TAKEN):
                before = signal.getsignal(signum)  # None: a handler in C, which could not be put back
                if before == signal.SIG_DFL or (signum in ALWAYS and before is not None):
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]  # what signal.signal returned it takes back
        self._before.clear()

    def hear(self, world: World, doing: str) -> None:
        """Let all processes know of a signal that one of them has noted; all of them call this.

        Args:
            world: The processes.
            doing: For messages.
        """
        signals = world.gather(self.received, doing)
        self._heard = next(((rank, signum) for rank, signum in enumerate(signals) if signum is not None), None)

    def agreed(self, world: World) -> int | None:
        """The signal that all processes know of, or None."""
        if world.size == 1:
            return self.received
        return None if self._heard is None else self._heard[1]

    def whose(self, world: World) -> str:
        """Which of several processes was told to stop, for the beginning of a message."""
        if world.size == 1 or self._heard is None:
            return ""
        rank, signum = self._heard
        return f"process {rank} of {world.size} received {signal.Signals(signum).name}; "

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
