"""The micro-batches of each step for one process, and what all processes of the step count together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from d2v_fast.batch import Batch
from d2v_fast.data import Loader
from d2v_fast.errors import SampleError
from d2v_fast.training.distributed.world import World

_MOST_LOSSES = 8
"""Losses that a task may have: processes that have nothing to count say as many numbers as the others."""


class Counts(NamedTuple):
    """What the micro-batches of a step hold, of one process or of all of them."""

    losses: dict[str, int]
    """For each loss what it is divided by."""

    skipped: int
    """Samples that could not be read."""

    samples: int
    """Samples that are trained on."""


class Counting(Protocol):
    """The part of a task that counts."""

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """For each loss what it is divided by."""
        ...


def count(task: Counting, batches: Sequence[Batch]) -> Counts:
    """What these micro-batches hold; it is known on the host before any forward pass."""
    losses: dict[str, int] = {}
    for batch in batches:
        for name, number in task.counts(batch).items():
            losses[name] = losses.get(name, 0) + number
    skipped = sum(batch.skipped for batch in batches)
    return Counts(losses, skipped, sum(len(batch.sample_ids) for batch in batches))


def fetch(world: World, task: Counting, loader: Loader, step: int) -> tuple[list[Batch], Counts]:
    """This process's micro-batches of optimizer step `step`, from 0, and what those of all processes hold.

    Raises:
        TooManySkipped: More samples cannot be read than `loader.max_skipped` allows, of all processes together.
        ProcessFailed: Another process could not read its samples for another reason.
        Exception: Whatever the loader of this process raised.
    """
    batches: list[Batch] = []
    own = Counts({}, 0, 0)
    numbers = [0.0] * (3 + _MOST_LOSSES)
    doing = f"while it read the samples of step {step + 1}"
    with world.together(doing, numbers):
        batches = loader.step(step)
        own = count(task, batches)
        if len(own.losses) > _MOST_LOSSES:
            raise ValueError(f"a task has at most {_MOST_LOSSES} losses, this one {len(own.losses)}")
        numbers[: 3 + len(own.losses)] = [own.skipped, own.samples, loader.handed_out, *own.losses.values()]
    if world.size == 1:
        return batches, own
    skipped, samples, handed_out, *losses = map(int, numbers)
    if skipped:
        said = {str(i): [error.name, error.reason] for i, error in loader.unshared.items()}
        found = {int(i): SampleError(*one) for part in world.gather(said, doing) for i, one in part.items()}
        with world.together(doing):
            loader.share(found, handed_out)
    return batches, Counts(dict(zip(own.losses, losses, strict=False)), skipped, samples)
