"""Whether tensors that are written share bytes with each other or with tensors that are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor


def find_overlap(written: Sequence[Tensor], read: Sequence[Tensor]) -> tuple[int, int] | None:
    """Two tensors that share bytes, one of them written; twice the same one if it overlaps itself.

    Views of one buffer that share no byte are fine, interleaved ones too. Only addresses and strides are looked at, so
    the tensors may be on any device.

    Args:
        written: tensors that are written.
        read: tensors that are only read; they may overlap each other.

    Returns:
        Two indices into `[*written, *read]`, or None.
    """
    tensors = [*written, *read]
    starts = np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
    if all(map(Tensor.is_contiguous, tensors)):
        ends = starts + np.array([tensor.nbytes for tensor in tensors], np.int64)
    else:
        for index, tensor in enumerate(written):
            if _overlaps_itself(tensor):
                return index, index
        ends = starts + np.array([_extent(tensor) for tensor in tensors], np.int64)
    is_written = np.arange(len(tensors)) < len(written)
    if not _ranges_conflict(starts, ends, is_written):
        return None
    # Rare: some byte ranges do overlap. Interleaved views may still be apart, so look at the elements.
    reaching: list[int] = []
    for this in np.argsort(starts, kind="stable").tolist():
        reaching = [other for other in reaching if ends[other] > starts[this]]
        for other in reaching:
            if (is_written[this] or is_written[other]) and _share(tensors[this], tensors[other]):
                return min(this, other), max(this, other)
        if ends[this] > starts[this]:
            reaching.append(this)
    return None


def _extent(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    if tensor.numel() == 0:
        return 0
    return (1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))) * tensor.itemsize


def _ranges_conflict(starts: npt.NDArray[Any], ends: npt.NDArray[Any], is_written: npt.NDArray[Any]) -> bool:
    """Whether two byte ranges overlap of which one at least is written."""
    order = np.argsort(starts, kind="stable")
    order = order[ends[order] > starts[order]]
    starts, ends, is_written = starts[order], ends[order], is_written[order]
    reach = np.maximum.accumulate(ends)[:-1]
    reach_written = np.maximum.accumulate(np.where(is_written, ends, 0))[:-1]
    return bool((starts[1:] < np.where(is_written[1:], reach, reach_written)).any())


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices may name one element (certain for expanded tensors, cautious for exotic strides)."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


class _Layout:
    """A tensor's addresses as numpy sees them; nothing is read."""

    def __init__(self, tensor: Tensor) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * tensor.itemsize for stride in tensor.stride()),
            "typestr": f"|V{tensor.itemsize}",
            "data": (tensor.data_ptr(), False),
        }


def _share(one: Tensor, other: Tensor) -> bool:
    return bool(np.shares_memory(np.asarray(_Layout(one)), np.asarray(_Layout(other))))
