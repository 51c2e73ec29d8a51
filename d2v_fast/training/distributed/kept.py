"""Whether a process keeps all of the network, or a part of it."""

from __future__ import annotations

import torch

from d2v_fast.config import DistributedConfig, PrecisionConfig
from d2v_fast.training.distributed.whole import Network, Whole
from d2v_fast.training.distributed.world import World


def kept_of(
    task: Network, world: World, distributed: DistributedConfig, precision: PrecisionConfig, device: torch.device
) -> Whole:
    """What this process keeps; of several with `distributed.shard` its part.

    Args:
        task: Whose network it is; the same in every process.
        world: The processes.
        distributed: Of the run.
        precision: Of the run.
        device: Where it computes.
    """
    if world.size == 1 or not distributed.shard:
        return Whole(task, world)
    from d2v_fast.training.distributed.shards import Shards  # FSDP takes a second to import, and few need it

    return Shards(task, world, precision, device)
