"""What a process keeps of the network: everything, which is the rule, or its part (`shards`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn

from d2v_fast.run.checkpoint import Checkpoint
from d2v_fast.training.distributed.gradients import check_equal, flatten
from d2v_fast.training.distributed.world import World
from d2v_fast.training.update import Averages, Update

Files = Mapping[str, Mapping[str, Tensor]]
"""What a checkpoint holds: names of files to names of tensors to tensors."""


class Network(Protocol):
    """The part of a `Task` that says what there is to keep."""

    @property
    def network(self) -> nn.Module: ...  # noqa: D102  # as in `Task`
    def parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...  # noqa: D102  # as in `Task`
    def averages(self) -> Averages | None: ...  # noqa: D102  # as in `Task`


class Whole:
    """Everything is in each process; the gradients are summed behind the passes.

    Attributes:
        linked: Whether the processes need each other in each pass.
        total: Makes the norm of the whole gradient of that of the kept one; None: they are the same.
    """

    linked = False
    total: Callable[[Tensor], Tensor] | None = None

    def __init__(self, task: Network, world: World) -> None:
        """Keep the network of a task."""
        self._task, self._world = task, world

    def parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """What is trained, as far as it is kept."""
        return self._task.parameters()

    def averages(self) -> Averages | None:
        """The moving averages, as far as they are kept."""
        return self._task.averages()

    def before_pass(self, *, last: bool) -> None:
        """Called before each forward pass; `last`: the last one of its step."""
        return

    def after_passes(self, update: Update, held: Collection[str]) -> list[Tensor]:
        """Called when the gradients of this process are there; the tensors that have to be summed over processes."""
        return flatten(update.complete(held)) if self._world.size > 1 else []

    def put_away(self) -> None:
        """Called after passes without a backward pass."""
        return

    def check(self, update: Update, doing: str) -> None:
        """Look whether all processes have the same weights; see `check_equal`."""
        check_equal(self._world, update.parameters, doing)

    def gather(self, files: Files, doing: str) -> Files:
        """Whole tensors of what is kept, in the main process; all processes call it.

        Args:
            files: What is kept.
            doing: For messages.
        """
        return files

    def cut_checkpoint(self, checkpoint: Checkpoint, files: Files) -> Checkpoint:
        """What this process reads of a checkpoint.

        Args:
            checkpoint: On the disk, of any number of processes.
            files: What is kept now.
        """
        return checkpoint
