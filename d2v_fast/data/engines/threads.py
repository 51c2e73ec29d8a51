"""Threads that read the rows of micro-batches, each row alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from d2v_fast.errors import DataError, SampleError

_PIECES_PER_THREAD = 4
"""A batch is read in this many pieces for each thread: few enough to cost nothing, enough to end together."""


class Rows(Protocol):
    """A micro-batch that is being read; its methods are called from several threads."""

    failures: dict[int, SampleError]
    """What went wrong, by row."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def read(self, row: int) -> None:
        """Reads one row.

        Raises:
            SampleError: It cannot be read.
        """
        ...

    def finish(self) -> None:
        """Called once, by the thread that read the last row."""
        ...


class Readers:
    """A pool of threads; torch computes on one core in each.

    Args:
        threads: How many.
    """

    def __init__(self, threads: int) -> None:
        self._pieces = threads * _PIECES_PER_THREAD
        self._pool = _start_pool(threads)

    def begin(self, wanted: Future[Any], prepare: Callable[[], Rows]) -> None:
        """Reads a micro-batch in the background.

        Args:
            wanted: If it is done before, nothing more is read. An error becomes its error.
            prepare: Makes the rows; called in a thread too.
        """
        self.submit(wanted, lambda: self._spread(wanted, prepare()))

    def submit(self, wanted: Future[Any], work: Callable[[], None]) -> None:
        """Runs `work` in the background, unless `wanted` is done before; an error becomes its error."""
        self._pool.submit(_guard, wanted, work)

    def close(self) -> None:
        """Waits for what is being read, drops what is not yet."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _spread(self, wanted: Future[Any], rows: Rows) -> None:
        bounds = np.linspace(0, len(rows), min(self._pieces, len(rows)) + 1).astype(int).tolist()
        left = len(bounds) - 1
        lock = threading.Lock()

        def piece(low: int, high: int) -> None:
            nonlocal left
            for row in range(low, high):
                try:
                    rows.read(row)
                except SampleError as error:
                    rows.failures[row] = error.alone()
            with lock:
                left -= 1
                last = left == 0
            if last:
                rows.finish()

        for low, high in pairwise(bounds):
            self.submit(wanted, partial(piece, low, high))


def settle(future: Future[Any], result: object) -> None:
    """Gives the future its result or error, unless it was cancelled or failed before."""
    try:
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
    except InvalidStateError:
        return


def _guard(wanted: Future[Any], work: Callable[[], None]) -> None:
    if wanted.done():
        return
    try:
        work()
    except BaseException as error:
        settle(wanted, error)


_starting = threading.Lock()
"""torch's number of threads is 1 for a moment while a pool starts, which another pool must not take for the default."""


def _start_pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch computes on one core each.

    torch.set_num_threads is local to a thread, but for a default that threads started later take over; so all threads
    are started here, and then the default is put back, also if one of them cannot start.

    Raises:
        DataError: The system gives no more threads.
    """
    with _starting:
        default = torch.get_num_threads()
        together = threading.Barrier(threads + 1)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="d2v-data", initializer=_use_one_core)
        try:
            for started in range(threads):
                try:
                    pool.submit(together.wait)
                except RuntimeError as error:
                    together.abort()  # those that wait for the others would wait for ever
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise DataError(
                        f"only {started} of loader.threads = {threads} threads could be started ({error}): lower "
                        "loader.threads, or raise the limit of the system (ulimit -u, pids.max of a container)"
                    ) from error
            together.wait()
        finally:
            torch.set_num_threads(default)
        return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # a thread's first call takes the default over, which must not happen after the next line
    torch.set_num_threads(1)
