"""What every mask function returns, and the arguments that all of them take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2v_fast import _C
from d2v_fast.rng import ids_array, natural

SampleIds = NDArray[np.int64] | Tensor | Sequence[int]


@dataclass(frozen=True)
class Masks:
    """The masks of a batch of B samples with V views of T positions each; row b * V + v is view v of sample b."""

    mask: Tensor
    """bool [B * V, T]: True where the student has to predict."""

    rows: Tensor
    """int64 [M]: the flat indices of the True positions into B * V * T, ascending."""

    inputs: Tensor | None = None
    """[B * V, T, ...]: the inputs after masking, where the input itself is masked (text: tokens, int64)."""

    lengths: NDArray[np.int64] | None = None
    """int64 [B], valid positions of each sample; None where every row is full."""

    @cached_property
    def kept(self) -> Tensor:
        """int64 [K]: the flat indices of the valid positions that are not masked into B * V * T, ascending."""
        rows, width = self.mask.shape
        lengths = np.full(rows, width, dtype=np.int64) if self.lengths is None else self.lengths
        views = rows // len(lengths) if len(lengths) else 1
        count = int(lengths.sum()) * views - len(self.rows)
        kept = torch.empty(count + 1, dtype=torch.int64, device="cpu")  # one more, which the kernel may write last
        _C.flat_kept(self.mask.data_ptr(), lengths, views, width, kept.data_ptr())
        return kept[:count]


class MaskRequest:
    """The key of a batch's masks, (seed, epoch, sample ids, views), checked, and the memory for the result."""

    def __init__(self, seed: int, epoch: int, sample_ids: SampleIds, views: int, positions: int) -> None:
        """Checks the key and allocates bool [B * V, positions].

        Raises:
            ValueError: A seed, epoch or number of views out of range, or sample ids that are not a list of integers.
        """
        self.ids = ids_array(sample_ids, "sample_ids")
        self.views = at_least(views, 1, "views")
        self.mask = torch.empty(len(self.ids) * self.views, positions, dtype=torch.bool, device="cpu")
        self.key = (natural(seed, "seed"), natural(epoch, "epoch"), self.ids, self.views)

    def result(self, masked: int, inputs: Tensor | None = None, lengths: NDArray[np.int64] | None = None) -> Masks:
        """The masks with their rows; `masked` is the number of True positions that the kernel wrote."""
        rows = torch.empty(masked, dtype=torch.int64, device="cpu")
        _C.flat_rows(self.mask.data_ptr(), masked, rows.data_ptr())
        return Masks(self.mask, rows, inputs, lengths)


def valid_lengths(
    lengths: Tensor | Sequence[int], width: int | None, sample_ids: SampleIds
) -> tuple[NDArray[np.int64], int]:
    """The lengths as an array [B] and the width T, by default the longest.

    Raises:
        ValueError: There is not one length for each sample id, or a length is negative or larger than the width.
    """
    array = ids_array(lengths, "lengths")
    samples = len(ids_array(sample_ids, "sample_ids"))
    if len(array) != samples:
        raise ValueError(f"lengths has {len(array)} entries for {samples} sample_ids; pass one length for each sample")
    values = array.tolist()  # Python's min and max are faster for a batch
    longest, shortest = max(values, default=0), min(values, default=0)
    if shortest < 0:
        raise ValueError(f"lengths must be 0 or more, not {shortest}")
    if width is None:
        return array, longest
    if longest > natural(width, "width"):
        raise ValueError(
            f"lengths has an entry of {longest}, more than width = {width}; pass the padded length as width"
        )
    return array, width


def at_least(value: int, least: int, name: str) -> int:
    """The value, if it is an integer of at least `least`."""
    if natural(value, name) < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def grid_size(grid: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a grid of patches, both at least 1."""
    if len(grid) != 2:
        raise ValueError(f"grid must be (height, width) in patches, not {grid!r}")
    return at_least(grid[0], 1, "grid height"), at_least(grid[1], 1, "grid width")
