"""Many small jobs in threads, in order, with their rate and the time left on stderr if it takes long."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TextIO, TypeVar, cast

from d2v_fast.log import logger, tell
from d2v_fast.streams import SteadyStream

if TYPE_CHECKING:  # rich is only loaded when there is something to show
    from rich.progress import Progress as Bar

P = TypeVar("P")
T = TypeVar("T")

_PIECE = 32
"""Jobs that a thread is given at a time."""

_PATIENCE = 2.0
"""Seconds before anything is shown."""

_LINE_EVERY = 15.0
"""Seconds between lines where stderr is a file."""


def scan(work: Callable[[int], T], numbers: Sequence[int], threads: int, what: str) -> Iterator[T]:
    """Results of `work` for each number, in order; what is still to be done is dropped when the caller stops.

    Args:
        work: Called from several threads.
        numbers: Its arguments.
        threads: How many.
        what: Is done to what, for the progress bar ("reading headers").
    """
    stopped = threading.Event()

    def piece(some: Sequence[int]) -> list[T]:
        return [work(i) for i in some if not stopped.is_set()]

    # small pieces where there is little: every thread gets some, and an interrupt finds most of it done
    step = max(1, min(_PIECE, len(numbers) // (8 * max(1, threads))))
    pieces = iter([numbers[low : low + step] for low in range(0, len(numbers), step)])
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="d2v-scan")
    try:
        with Progress(what, len(numbers)) as progress:
            for results in in_order(pool, piece, pieces, 4 * max(1, threads)):
                yield from results
                progress.advance(len(results))
    finally:
        stopped.set()  # an interrupt waits for one job of each thread
        pool.shutdown(cancel_futures=True)


def in_order(pool: ThreadPoolExecutor, work: Callable[[P], T], pieces: Iterator[P], ahead: int) -> Iterator[T]:
    """Results of `work` for each piece, in order, with so many of them begun ahead."""
    coming: deque[Future[T]] = deque(pool.submit(work, piece) for piece in islice(pieces, ahead))
    while coming:
        result = coming.popleft().result()
        coming.extend(pool.submit(work, piece) for piece in islice(pieces, 1))
        yield result


class Progress:
    """A bar in a terminal, a line now and then in a file, nothing if it is soon over.

    Args:
        what: Shown in front.
        total: Of what `advance` counts.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._shown = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Counts on."""
        self._done += count
        now = time.monotonic()
        if now - self._began < _PATIENCE or not logger.isEnabledFor(logging.INFO):
            return
        stream = SteadyStream(sys.stderr)  # a terminal that goes away is no reason to stop reading
        if stream.isatty():
            self._show(stream)
        elif now - self._shown > _LINE_EVERY:
            self._shown = now
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            tell(f"{self._what}: {self._done:,} of {self._total:,}, {rate:,.0f}/s, {left:,.0f} s left", logging.INFO)

    def _show(self, stream: SteadyStream) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:,.0f}/s"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(file=cast(TextIO, stream)), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, rate=0.0)
        rate = self._done / (time.monotonic() - self._began)
        self._bar.update(self._task, completed=self._done, rate=rate)
