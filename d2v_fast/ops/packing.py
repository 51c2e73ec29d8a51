"""Padded rows without their padding: the valid tokens of all sequences in one row, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, "Packing", float], Tensor]
"""query, key, value [S, heads, D], packing, dropout -> [S, heads, D]; a token attends to its own sequence only."""


@dataclass(frozen=True)
class Packing:
    """Where the valid tokens of N padded sequences of width T stand in one row of S tokens.

    Sequence n is tokens starts[n] to starts[n + 1] of that row. What works on each token alone (norms, linear maps,
    GELU) sees S tokens instead of N * T; attention is `kernel`'s.
    """

    lengths: list[int]
    """Valid tokens of each sequence."""

    width: int
    """T."""

    index: Tensor
    """int64 [S], flat indices of the valid tokens into N * T, ascending."""

    starts: Tensor
    """int32 [N + 1], sums of the lengths."""

    kernel: Kernel
    """The attention over the packed row."""

    def pack(self, x: Tensor) -> Tensor:
        """[N, T, C] to [1, S, C]."""
        return x.flatten(0, 1).index_select(0, self.index).unsqueeze(0)

    def unpack(self, x: Tensor) -> Tensor:
        """[1, S, C] to [N, T, C], zero at the padding."""
        flat = x.new_zeros(len(self.lengths) * self.width, x.shape[2])
        return flat.index_copy(0, self.index, x.squeeze(0)).view(len(self.lengths), self.width, x.shape[2])

    def rows(self, rows: Tensor) -> Tensor:
        """int64 [M], flat indices of valid tokens into N * T, to their places in the packed row."""
        sequence = rows // self.width
        return rows - sequence * self.width + self.starts.index_select(0, sequence)

    def spread(self, x: Tensor) -> Tensor:
        """One value for each sequence, [N, 1, 1], to one for each token, [1, S, 1]."""
        return x.view(-1, 1).index_select(0, self.index // self.width).unsqueeze(0)


def plan_packing(lengths: Tensor, width: int, device: torch.device, kernel: Kernel) -> Packing:
    """The packing of sequences whose lengths are known on the host: nothing waits for the device.

    Args:
        lengths: int64 [N] on the CPU, valid tokens of each sequence.
        width: T, the padded length.
        device: of the sequences.
        kernel: the attention over the packed row.

    Raises:
        ValueError: the lengths are on another device, where reading them would stop the host.
    """
    if not lengths.is_cpu:
        raise ValueError(f"lengths are on {lengths.device}; packing needs them on the CPU")
    valid = torch.arange(width) < lengths.unsqueeze(1)
    index = valid.flatten().nonzero().flatten()
    counts = valid.sum(1)
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    torch.cumsum(counts, 0, out=starts[1:])
    return Packing(counts.tolist(), width, to_device(index, device), to_device(starts, device), kernel)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, without waiting for it: a copy from memory that is not pinned would."""
    if device.type == "cuda" and tensor.is_cpu and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
