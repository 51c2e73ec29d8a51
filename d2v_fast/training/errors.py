"""The errors of a run. A message says what is wrong and what to do; the command line prints it without a traceback."""

from __future__ import annotations

import signal


class ConfigError(ValueError):
    """A field of the configuration, or an argument, has a value that cannot be used."""


class RunError(RuntimeError):
    """A run cannot start, continue or be read."""


class RunStopped(RunError):
    """A run stopped by itself (collapse, no finite step, disk full); its last checkpoint is good."""


class Interrupted(RunError):
    """A run was stopped from outside, by SIGINT or SIGTERM, after a checkpoint was written."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signal.Signals(signum)
