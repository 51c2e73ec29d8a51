"""The sum of gradients over the processes, and a look whether their weights stay the same.

The library sums an element in an order that depends on where it lies in its tensor. So gradients are copied into flat
tensors of fixed contents: a run that continues sums as one that was never interrupted did, whatever order the backward
pass finished in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from d2v_fast.errors import RunStopped
from d2v_fast.training.distributed.world import World

BUCKET_BYTES = 64 << 20
"""Of a flat tensor, at least, but for the last: large enough that a message costs more than its latency."""

_ALIGNED = 16
"""Elements: where a gradient may begin in a flat tensor. 64 bytes of float32, a cache line."""


def flatten(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Make the gradients views of a few flat tensors, of which `World.add_all_` makes sums over all processes.

    Args:
        parameters: With a gradient each; the same ones in every process, in the same order.

    Returns:
        The flat tensors.
    """
    return [_flatten(bucket) for bucket in buckets(parameters)]


def check_equal(world: World, tensors: Sequence[Tensor], doing: str) -> None:
    """Look whether all processes have the same weights, by a sum of their bits.

    They do as long as the processes compute alike. Processors of different kinds need not.

    Raises:
        RunStopped: They have come apart.
    """
    if not world.united or not tensors:
        return
    bits = [tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    own = int(torch.stack([one.sum(dtype=torch.int64) for one in bits]).sum())
    sums = world.gather(own, doing)
    apart = [rank for rank, other in enumerate(sums) if other != sums[0]]
    if apart:
        raise RunStopped(
            f"process {apart[0]} of {world.size} has other weights than process 0 {doing}: the processes do not "
            "compute alike. Use machines with the same processors or GPUs, and the same versions; the checkpoint "
            "before this one is good"
        )


def buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in their order, cut where a flat tensor is full or the number format of the gradient changes."""
    bucket: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        if bucket and (held >= BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(parameter)
        held += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket


def _flatten(bucket: Sequence[nn.Parameter]) -> Tensor:
    """A flat tensor with the gradients, which become views of it: nothing has to be copied back."""
    places, end = [], 0
    for parameter in bucket:
        places.append(end)
        end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
    flat = torch.zeros(end, dtype=bucket[0].dtype, device=bucket[0].device)
    for parameter, place in zip(bucket, places, strict=True):
        view = flat[place : place + parameter.numel()].view(parameter.shape)
        if parameter.grad is not None:
            view.copy_(parameter.grad)
        parameter.grad = view
    return flat
