"""What the library tells a person: through the standard `logging`, by the logger "d2v_fast".

Progress is told at level INFO, what is left out or odd at WARNING. Without any set-up both appear on stderr as
`d2v-fast: message`. A program that configures `logging` itself receives the messages there instead.
`logging.getLogger("d2v_fast").setLevel("WARNING")` leaves progress out, a higher level everything.

A message is never worth a run: whatever happens to stderr, writing to it raises nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TextIO

logger = logging.getLogger("d2v_fast")
"""The logger of the whole library."""


def tell(message: str, level: int = logging.WARNING) -> None:
    """Log one line; what a file name may hold and a terminal should not see is written as escapes.

    Args:
        message: Anything; line breaks and other control characters are escaped.
        level: A level of `logging`.
    """
    logger.log(level, "%s", escaped(message))


def report(name: str, reason: str) -> None:
    """Tell that the sample or file `name` is left out."""
    tell(f"skipped {name}: {reason}")


def escaped(text: str) -> str:
    """`text` on one line: what cannot be printed is written as escapes, letters of every language stay."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Stderr(logging.Handler):
    """Writes `d2v-fast: message` lines to whatever `sys.stderr` is at that time.

    Attributes:
        always: Write even if the program has handlers of its own, which get the message as well. The commands set it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.always = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; nothing is raised, and nothing is said about a failure: there is nowhere to say it."""
        if not self.always and (logging.root.handlers or logger.handlers != [self]):
            return
        # OSError: a full disk, a pipe without a reader. ValueError: a closed file, a detached buffer.
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                _write(sys.stderr, f"d2v-fast: {record.getMessage()}\n")


def _write(stream: TextIO, line: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


stderr = Stderr()
"""The handler of the library's logger."""

logger.addHandler(stderr)
if logger.level == logging.NOTSET:  # nobody has chosen another level before the import
    logger.setLevel(logging.INFO)


def for_a_command(*, quiet: bool = False) -> None:
    """Set the log up for a command: lines on stderr, whatever handlers imported packages have installed.

    Args:
        quiet: Leave out progress; warnings and errors stay.
    """
    stderr.always = True
    if quiet:
        logger.setLevel(logging.WARNING)


def mute() -> None:
    """Tell nothing from now on: of several processes that train one run, one speaks."""
    if not _loud:
        _loud.append(logger.level)
    logger.setLevel(logging.CRITICAL + 1)


def unmute() -> None:
    """Take `mute` back, if it was called."""
    if _loud:
        logger.setLevel(_loud.pop())


_loud: list[int] = []  # the level before it was muted


def flush_output() -> None:
    """Write out stdout and stderr before the process ends; what cannot be written is given up.

    The interpreter flushes both at its end and makes exit status 120 of a failure. So a stream that fails is pointed to
    the null device.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
