"""Work that is done a little ahead of time, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(work: Callable[[S], T], tasks: Iterable[S], threads: int) -> Iterator[T]:
    """The results in order; two for each thread are made ahead of time, no more."""
    left = iter(tasks)
    coming: deque[Future[T]] = deque()
    threads = max(1, threads)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="d2v-ahead")
    try:
        coming.extend(pool.submit(work, task) for _, task in zip(range(2 * threads), left, strict=False))
        while coming:
            result = coming.popleft().result()
            coming.extend(pool.submit(work, task) for _, task in zip(range(1), left, strict=False))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
