"""How the micro-batches of a step are dealt out to several processes.

Process r of W takes every W-th, from the r-th on. Where W does not divide their number, each micro-batch is cut into so
many pieces that it does: the samples of a step, their crops and their masks stay the same.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace

import numpy as np

from d2v_fast.data.config import LoaderConfig
from d2v_fast.data.plan import BatchPlan
from d2v_fast.errors import ConfigError


class EmptyPiece(Exception):
    """A micro-batch has fewer samples than it is cut into pieces, and this piece has none."""


class Deal:
    """What one process does of each step.

    Attributes:
        rank: Of the process, from 0.
        world: Number of processes.
        pieces: Into which each micro-batch is cut; 1: they stay whole.
        numbers: Of the parts of a step that this process does: piece i of micro-batch m is m * pieces + i.
    """

    def __init__(self, config: LoaderConfig, rank: int = 0, world: int = 1, *, may_cut: bool = True) -> None:
        """Deal out `config.accumulation` micro-batches.

        Args:
            config: Of the loader.
            rank: Of this process.
            world: Number of processes.
            may_cut: Whether a sample is treated alike in whatever micro-batch it is.

        Raises:
            ConfigError: The processes cannot share the micro-batches; the message names values that fit.
        """
        count = config.accumulation
        self.rank, self.world = rank, world
        self.pieces = math.lcm(count, world) // count
        self.numbers = range(rank, count * self.pieces, world)
        if self.pieces == 1 or (may_cut and config.batch_size >= self.pieces):
            return
        why = (
            f"its micro-batches of {config.batch_size} cannot be cut into {self.pieces}"
            if may_cut
            else "with these settings a micro-batch cannot be cut, since its samples depend on each other"
        )
        fitting = ", ".join(str(number) for number in range(1, min(count, 1024) + 1) if count % number == 0)
        raise ConfigError(
            f"loader.accumulation is {count} (the micro-batches of a step, of all processes together), which {world} "
            f"processes cannot share: {why}. Start {fitting} processes, or a new run whose loader.accumulation is a "
            f"multiple of {world}"
        )

    def part(self, number: int) -> tuple[int, int]:
        """The micro-batch of the step and the piece of it that a number means."""
        return divmod(number, self.pieces)

    def cut(self, plan: BatchPlan, piece: int) -> BatchPlan:
        """A piece of a planned micro-batch: neighbouring samples, as many as in the other pieces or one less or more.

        Raises:
            EmptyPiece: There is no sample in it.
            ConfigError: What the modality plans for a batch cannot be cut.
        """
        if self.pieces == 1:
            return plan
        rows = np.array_split(np.arange(len(plan.ids)), self.pieces)[piece]
        if len(rows) == 0:
            raise EmptyPiece
        details = plan.details
        if not is_dataclass(details) or isinstance(details, type):
            raise ConfigError(
                f"the plans of this modality ({type(details).__name__}) are no dataclass of arrays, so a micro-batch "
                f"cannot be cut: set loader.accumulation to a multiple of {self.world}"
            )
        arrays = {one.name: getattr(details, one.name) for one in fields(details)}
        taken = {name: value[rows] for name, value in arrays.items() if isinstance(value, np.ndarray)}
        return BatchPlan(plan.ids[rows], plan.epoch, replace(details, **taken))
