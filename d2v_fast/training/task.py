"""What the loop asks a task: pretraining is one, a classifier on labels another. The loop itself knows none of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from d2v_fast.batch import Batch
from d2v_fast.config import CheckpointConfig, DistributedConfig, LogConfig, OptimConfig, PrecisionConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.models.losses import Loss
from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.training.update import Averages

Losses = Mapping[str, Loss]
"""Losses by name; every micro-batch of a run has the same names."""

Metrics = dict[str, float | None]
"""Fields of a log line; None where there is no number."""


class Settings(Protocol):
    """What the loop reads of a configuration."""

    @property
    def steps(self) -> int: ...  # noqa: D102  (its section says it)
    @property
    def seed(self) -> int: ...  # noqa: D102  (its section says it)
    @property
    def numerics(self) -> int: ...  # noqa: D102  (its section says it)
    @property
    def loader(self) -> LoaderConfig: ...  # noqa: D102  (its section says it)
    @property
    def optim(self) -> OptimConfig: ...  # noqa: D102  (its section says it)
    @property
    def precision(self) -> PrecisionConfig: ...  # noqa: D102  (its section says it)
    @property
    def checkpoint(self) -> CheckpointConfig: ...  # noqa: D102  (its section says it)
    @property
    def log(self) -> LogConfig: ...  # noqa: D102  (its section says it)
    @property
    def distributed(self) -> DistributedConfig: ...  # noqa: D102  (its section says it)


class Select(NamedTuple):
    """By which number of a validation the best checkpoint is chosen."""

    metric: str
    """A field of what `validate` gives."""

    largest: bool
    """Whether more is better."""

    patience: int | None = None
    """Validations without a better one after which the run ends; None: it goes on to its last step."""


class Task(Protocol):
    """What a step computes, what is logged and what is saved.

    Nothing is called after the optimizer's step: moving averages are a part of `Update.step`, so that they are skipped
    together with it and can be computed in the same pass over memory.
    """

    name: str
    """For the progress bar."""

    @property
    def network(self) -> nn.Module:
        """Everything with parameters; each pass begins with a call of it."""
        ...

    def parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """What is trained, by the names that the checkpoint uses."""
        ...

    def rates(self) -> Mapping[str, float]:
        """Names of parameters to the factor on their learning rate; 1 where a name is missing."""
        ...

    def held(self, step: int) -> Collection[str]:
        """Names of the parameters that optimizer step `step`, from 0, leaves as they are.

        They have no moments before their first step. Their gradients must be None.
        """
        ...

    def averages(self) -> Averages | None:
        """Moving averages of parameters, or None."""
        ...

    def decay(self, step: int) -> float | None:
        """Decay of the averages after optimizer step `step`, counted from 0; None if there are none."""
        ...

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each loss of `losses` is divided by; known on the host before any forward pass."""
        ...

    def losses(self, batch: Batch, step: int, micro_batch: int) -> Losses:
        """The forward pass, in training mode.

        Torch's generators are seeded from (seed, step, micro_batch) before.

        Args:
            batch: On the device of the run; it has at least one sample.
            step: Number of the optimizer step, from 0.
            micro_batch: Number of the micro-batch in its step, on all processes together.
        """
        ...

    def monitors(self, step: int) -> Metrics:
        """Numbers about the last micro-batch of optimizer step `step`, from 0; None for each if it had no sample."""
        ...

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Called when the steps begin.

        Args:
            lines: The log lines of the steps that are done, from earlier starts of the run; none if it is new.
        """
        ...

    def judge(self, line: Mapping[str, Any], step: int) -> list[str]:
        """Warnings about a log line, each line once and in order.

        Raises:
            RunStopped: The run is not worth going on with.
        """
        ...

    def validate(self, batches: Iterator[Batch]) -> Metrics:
        """Metrics of the held-out batches, which are on the device; the mode of the modules is as before afterwards."""
        ...

    def select(self) -> Select | None:
        """How the best checkpoint is chosen; None: the newest is as good as any."""
        ...

    def log(self, step: int) -> Metrics:
        """Further fields of the log line of optimizer step `step`, counted from 0, such as values of schedules."""
        ...

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """What a checkpoint holds: a file for each name, with these tensors (the loop saves the moments)."""
        ...

    def load(self, checkpoint: Checkpoint) -> None:
        """Put in what `state` gave: `checkpoint.tensors(name)`.

        Raises:
            RunError: It belongs to another model.
        """
        ...
