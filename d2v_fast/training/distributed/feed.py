"""The micro-batches of each step for one process, and what all processes of the step count together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

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

    lent: Mapping[int, Batch] = MappingProxyType({})
    """Micro-batches of others by their place among those of this process: what it computes for nothing where it has no
    sample, since sharded weights need all processes in each pass."""


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


def fetch(
    world: World, task: Counting, loader: Loader, step: int, *, linked: bool = False
) -> tuple[list[Batch], Counts]:
    """This process's micro-batches of optimizer step `step`, from 0, and what those of all processes hold.

    Args:
        world: The processes.
        task: Counts.
        loader: Gives the micro-batches.
        step: From 0.
        linked: Whether the processes need each other in each pass (`Counts.lent`).

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
    counts = Counts(dict(zip(own.losses, losses, strict=False)), skipped, samples)
    return batches, counts._replace(lent=_lent(world, batches, doing)) if linked else counts


def _lent(world: World, batches: Sequence[Batch], doing: str) -> dict[int, Batch]:
    """Micro-batches of others where this process has no samples; none where nobody has any."""
    lent: dict[int, Batch] = {}
    own = [len(batch.sample_ids) for batch in batches]
    numbers = [float(count > 0) for count in own]
    with world.together(doing, numbers):
        pass
    if all(number in (0, world.size) for number in numbers):
        return lent
    counts = world.gather(own, doing)
    for place, number in enumerate(numbers):
        if 0 < number < world.size:
            source = next(rank for rank, theirs in enumerate(counts) if theirs[place] > 0)
            given = batches[place].to(torch.device("cpu")) if world.rank == source else None
            batch = world.lend(given, source, doing)
            if own[place] == 0:
                lent[place] = batch
    return lent


def add_up(world: World, loss: Tensor, means: dict[str, Tensor], doing: str) -> Tensor:
    """The sum of the loss over all processes, float32 []; those of its parts take their places in `means`."""
    if world.size == 1:
        return loss
    sums = torch.stack([loss, *means.values()]).double()
    world.add_(sums, doing)
    means.update(zip(means, sums[1:].float(), strict=True))
    return sums[0].float()
