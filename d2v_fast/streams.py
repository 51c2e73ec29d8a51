"""Standard output that is never worth a run or a traceback."""

from __future__ import annotations

import os
from typing import TextIO


class SteadyStream:
    """A text stream whose writing raises nothing: the first problem is kept, and from then on all is dropped.

    Characters that the encoding lacks are written as escapes. Threads may share it.

    Args:
        stream: Where to write; None (a closed standard output) takes everything and keeps nothing.

    Attributes:
        problem: Why nothing is written any more, or None.
        encoding: That of the stream.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.problem: Exception | None = None
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def fileno(self) -> int:
        """The file descriptor.

        Raises:
            OSError: There is none.
        """
        if self._stream is None:
            raise OSError("there is no standard output")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write what the encoding can show, and the rest as escapes."""
        if self._stream is not None and self.problem is None:
            try:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except (OSError, ValueError) as error:
                self.problem = error
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        if self._stream is not None and self.problem is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.problem = error


def fill_closed_descriptors() -> None:
    """Open the null device for those of the file descriptors 0, 1 and 2 that are closed.

    Otherwise the first files that are opened get these numbers, and what some library prints ends up in a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
