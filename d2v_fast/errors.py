"""The errors of the library. A message says what is wrong and what to do; the command line prints it on one line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ConfigError(ValueError):
    """A field of the configuration, or an argument, has a value that cannot be used."""


class RunError(RuntimeError):
    """A run cannot start, continue or be read."""


class RunStopped(RunError):
    """A run stopped by itself (collapse, no finite step, disk full); its last checkpoint is good."""


class ProcessFailed(RunStopped):
    """One of several processes that train a run failed; the others, which this is raised in, leave with it."""


class ProcessLost(RunStopped):
    """One of several processes that train a run is gone, or did not come to where the others wait for it."""


class CheckpointDamaged(RunError):
    """A file of a checkpoint is missing, or is not what was written: its size or its checksum differs.

    Args:
        folder: The checkpoint.
        reason: Which file, and what is wrong with it.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"checkpoint {folder} is damaged: {reason}")
        self.folder = folder


class CheckpointUnreadable(RunError):
    """A checkpoint cannot be read just now (permissions, a disk or a network that does not answer)."""


class CheckpointTooNew(RunError):
    """A checkpoint was written by a newer version of the library."""


class Interrupted(RunError):
    """A run was stopped from outside, by a signal, after a checkpoint was written."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signal.Signals(signum)


class DataError(ValueError):
    """The data cannot be used as it is; the message names the place and the remedy."""


class TooManySkipped(DataError):
    """More samples cannot be read than `loader.max_skipped` allows; the run can be continued."""


class Unreachable(OSError):
    """A file at a remote address cannot be read just now, however often it was tried; the message names it."""


class SampleError(Exception):
    """One sample cannot be read. The loader names it once, leaves it out of its batch and goes on.

    Args:
        name: Path or name of the sample.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:  # by itself, Python keeps the message alone
        return type(self), (self.name, self.reason)

    def alone(self) -> SampleError:
        """The same without the exceptions and the traceback behind it, which would keep the tensors there alive."""
        return type(self)(self.name, self.reason)


class OwnFile(SampleError):
    """A file that this program wrote itself (a picture of `data show`, a manifest): no sample, and no broken one."""


def failed(name: str, error: Exception) -> SampleError:
    """What an exception that was raised while a sample was read says about the sample.

    Args:
        name: Path or name of the sample.
        error: Any exception; the type of one that nobody foresaw becomes part of the reason.

    Returns:
        An error to keep: it holds neither the exception nor a traceback, which would keep the tensors of its frames
        alive.
    """
    if isinstance(error, SampleError):
        return error.alone()
    if isinstance(error, OSError) and error.strerror:
        return SampleError(name, error.strerror)
    what = next(iter(str(error).splitlines()), "")
    return SampleError(name, f"reading it failed: {type(error).__name__}" + (f": {what}" if what else ""))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Makes the failure of the sample `name` of any exception raised inside.

    Raises:
        SampleError: Something was raised; see `failed`. (KeyboardInterrupt and the like pass through.)
    """
    try:
        yield
    except SampleError:
        raise
    except Exception as error:
        raise failed(name, error) from error
