"""SIGINT and SIGTERM become a flag that the loop looks at between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopSignals:
    """Context manager: the first signal is only noted, a second SIGINT (Ctrl-C) interrupts at once.

    Outside the main thread signals cannot be caught, so there nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal that came, or None."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
