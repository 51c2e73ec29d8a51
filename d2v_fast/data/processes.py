"""Work shared among new processes, where threads would wait for one another: whatever is mostly Python.

A worker is a new interpreter, not a fork: it holds no connection, lock or memory of this process, and imports what its
work needs. It ends when its pipe is closed, so it never outlives this process, whatever ends that.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from d2v_fast.data.scan import in_order
from d2v_fast.errors import DataError

A = TypeVar("A")
R = TypeVar("R")

_PATIENCE = 5.0
"""Seconds in which a process that closed its pipe ends."""

_BEGIN = (
    "import sys; sys.path[:] = sys.argv[2].split(sys.argv[1]); "  # before anything in the folder we are in is imported
    "from d2v_fast.data.processes import serve; serve()"
)


def portable(work: object) -> bool:
    """Whether another process can have this function: no lambda, no part of a script or of a closure."""
    if not sys.executable:  # Python inside another program
        return False
    try:
        return b"__main__" not in pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def in_processes(
    work: Callable[[A], R], arguments: Iterable[A], processes: int, name: Callable[[A], str]
) -> Generator[R, None, None]:
    """Results of `work` for each argument, in order.

    Args:
        work: A function that is `portable`.
        arguments: Whatever can be pickled, as the results; some are taken ahead.
        processes: How many.
        name: What an argument is called in the message.

    Raises:
        DataError: A worker ended by itself.
    """
    started: list[_Worker] = []
    free: SimpleQueue[_Worker] = SimpleQueue()
    pool = ThreadPoolExecutor(processes, thread_name_prefix="d2v-processes")

    def ask(argument: A) -> R:
        worker = free.get()
        try:
            answer: R = worker.ask(argument)
        except (EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
            code = worker.stop(patience=_PATIENCE)
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise DataError(f"data: a process ended ({how}) while it read {name(argument)}: start again") from error
        free.put(worker)
        return answer

    try:
        for _ in range(processes):
            started.append(_Worker(work))
            free.put(started[-1])
        yield from in_order(pool, ask, iter(arguments), 4 * processes)
    finally:
        for worker in started:
            worker.stop()
        pool.shutdown(cancel_futures=True)


class _Worker:
    """A process that answers one question after the other."""

    def __init__(self, work: object) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, os.pathsep, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt from the keyboard reaches this process, which stops them
        )
        self._send(work)

    def ask(self, argument: object) -> Any:
        self._send(argument)
        return pickle.load(self._stream(self._process.stdout))

    def stop(self, patience: float = 0) -> int:
        """Ends it, if it does not end by itself within so many seconds, and says how it did."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was still to be sent to it is lost, as it is
                self._stream(stream).close()
        return self._process.wait()

    def _send(self, what: object) -> None:
        stream = self._stream(self._process.stdin)
        pickle.dump(what, stream, pickle.HIGHEST_PROTOCOL)
        stream.flush()

    @staticmethod
    def _stream(stream: Any) -> Any:
        assert stream is not None
        return stream


def serve() -> None:
    """What a worker does, until its input ends."""
    questions = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    work = pickle.load(questions)
    while True:
        try:
            argument = pickle.load(questions)
        except EOFError:
            return
        pickle.dump(work(argument), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
