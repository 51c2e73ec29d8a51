"""What the headers of many samples say: read in threads, and in processes where there are very many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from d2v_fast.data.processes import in_processes, portable
from d2v_fast.data.scan import Progress, scan
from d2v_fast.data.store import FileStore, Store
from d2v_fast.errors import DataError, SampleError, Unreachable, failed

Look = Callable[[Store, int], tuple[int, ...]]
"""(store, number) -> what the index says about a sample; raises SampleError for a broken one, OwnFile for none."""

Header = tuple[int, ...] | SampleError
"""The sizes of a sample, or what is wrong with it."""

MANY = 100_000
"""Samples from which on processes read them: they need two seconds to start, which threads read 40,000 headers in."""

_PIECE = 128
"""Samples that a process is given at a time."""


def headers(look: Look, store: Store, numbers: Sequence[int], workers: int, doing: str) -> Iterator[tuple[int, Header]]:
    """Looks at samples, and gives the number and the header of each, in order.

    Args:
        look: Reads a header. Any exception makes its sample a broken one.
        store: The samples.
        numbers: Which of them.
        workers: Threads that read; processes, of `MANY` samples and more, if they can be given the work.
        doing: For the progress bar.

    Raises:
        DataError: A process ended by itself, or a remote file cannot be read just now.
    """
    if len(numbers) < MANY or not isinstance(store, FileStore) or not portable(look):
        yield from zip(numbers, scan(partial(header, look, store), numbers, workers, doing), strict=True)
        return
    pieces = [numbers[low : low + _PIECE] for low in range(0, len(numbers), _PIECE)]
    found = in_processes(
        partial(_headers, look),
        (store.some(piece) for piece in pieces),
        workers,
        lambda some: f"{some.label(0)} to {some.label(len(some.names) - 1)}",
    )
    with closing(found), Progress(doing, len(numbers)) as progress:
        for piece, results in zip(pieces, found, strict=True):
            yield from zip(piece, results, strict=True)
            progress.advance(len(piece))


def header(look: Look, store: Store, i: int) -> Header:
    """What the header of one sample says.

    Raises:
        DataError: A remote file cannot be read just now: that is no fault of its samples.
    """
    try:
        return look(store, i)
    except Exception as error:
        check_reached(error)
        return failed(store.label(i), error)


def check_reached(error: BaseException | None) -> None:
    """Look for a remote file that cannot be read just now behind an error.

    Raises:
        DataError: There is one; the message names it.
    """
    while error is not None:
        if isinstance(error, Unreachable):
            raise DataError(f"data: {error}. Start again when it can: what was read is kept") from error
        error = error.__cause__


def _headers(look: Look, store: FileStore) -> list[Header]:
    return [header(look, store, i) for i in range(len(store.names))]
