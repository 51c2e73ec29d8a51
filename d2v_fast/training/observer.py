"""What may look at a model while it trains. It stands above this room, so the trainer is given it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from d2v_fast.config import Config
from d2v_fast.models import Data2Vec
from d2v_fast.training.task import Metrics


class Observer(Protocol):
    """Adds numbers to log lines. It changes nothing: the run has the same bits with and without it.

    Each micro-batch seeds torch's generators, so an observer may draw from them.
    """

    @property
    def every(self) -> int:
        """Optimizer steps between two looks; each is taken at the first log line from there on, and at the end."""
        ...

    def begin(self, config: Config, run: Path, device: torch.device) -> None:
        """Called at each start of the run, when its data has been opened.

        Args:
            config: Of the run.
            run: Its folder.
            device: Where the model is.

        Raises:
            DataError: What it needs cannot be used. The run does not start then.
        """
        ...

    def __call__(self, model: Data2Vec) -> Metrics:
        """Numbers for the log line, by names that no other field of it has; the model stays as it is."""
        ...
