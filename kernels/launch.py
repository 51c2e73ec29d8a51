"""How the Triton kernels are launched: grids, tiles and warps by rule, never by trial. No torch, no Triton.

Autotuning would measure at the first call, differently on every machine and inside a CUDA graph not at all. The rules
come from what the compiler makes of each form (python_tests/kernels/test_compiled.py): 128-bit accesses, no spilled
register.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

EMA_BLOCK = 1024
"""Elements of one step of an EMA program: four for each thread of eight warps, so that float32 and 16-bit formats want
the same layout (with eight, the compiler moves one of them through shared memory, with a barrier)."""

EMA_CHUNK = 16 * EMA_BLOCK
"""Elements of a row of the EMA's table: 32 bytes of table for at least 160 kB of traffic, and chunks enough for all
multiprocessors to end together."""

EMA_WARPS = 8

LARGEST_ROW = 8192
"""Channels up to which `row_targets`, and `column_targets` with a final norm, can hold a row in registers."""

LARGEST_AFFINE_ROW = 4096
"""The same for `norm_gelu`, which holds weight, bias and their sums beside the row."""

LARGEST_HEAD = 128
"""Channels of a head up to which the attention kernels serve."""


class EmaTensor(NamedTuple):
    """One tensor of the moving average: addresses (shadow 0 without one), elements, and the names of the formats."""

    teacher: int
    student: int
    shadow: int
    size: int
    student_format: str
    shadow_format: str | None


class EmaGroup(NamedTuple):
    """One launch of `ema.ema_update`: its constants, and the rows of its table (teacher, student, shadow, elements)."""

    student_format: str
    shadow_format: str | None
    aligned: bool
    table: list[tuple[int, int, int, int]]


class AdamwTensor(NamedTuple):
    """One parameter of AdamW and what follows it."""

    starts: tuple[int, ...]
    """Addresses: parameter, gradient, two moments, count of steps, teacher, shadow, teacher's shadow; 0: none."""
    size: int
    """Elements."""
    shadow_format: str | None
    teacher_shadow_format: str | None


class AdamwGroup(NamedTuple):
    """One launch of `adamw_ema.adamw_ema`: its constants and chunks (number of tensor, first element, how many)."""

    teacher: bool
    shadow_format: str | None
    teacher_shadow_format: str | None
    aligned: bool
    chunks: list[tuple[int, int, int]]


class Tile(NamedTuple):
    """Rows (or frames) and channels of the tile of one program, and its warps."""

    rows: int
    channels: int
    warps: int


class AttentionTile(NamedTuple):
    """Queries, keys and channels of the tiles of the attention kernels, and warps."""

    queries: int
    keys: int
    channels: int
    warps: int


_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def ema_groups(tensors: Iterable[EmaTensor]) -> list[EmaGroup]:
    """Cuts tensors into chunks, whole ones first and what is left last; one group for each set of constants.

    A model of one format is one group, so one launch. Tensors that do not start at multiples of 16 bytes (views with an
    odd offset) make a group of their own, which is read without wide accesses.

    Args:
        tensors: addresses on the device, in any order.

    Returns:
        Groups in order of first appearance; empty tensors are in none.
    """
    groups: dict[tuple[str, str | None, bool], EmaGroup] = {}
    for tensor in tensors:
        steps = (4, _BYTES[tensor.student_format], _BYTES[tensor.shadow_format] if tensor.shadow_format else 0)
        starts = tensor[:3]
        aligned = all(start % 16 == 0 for start in starts)
        key = (tensor.student_format, tensor.shadow_format, aligned)
        for first in range(0, tensor.size, EMA_CHUNK):
            teacher, student, shadow = (start + first * step for start, step in zip(starts, steps, strict=True))
            group = groups.setdefault(key, EmaGroup(*key, []))
            group.table.append((teacher, student, shadow, min(EMA_CHUNK, tensor.size - first)))
    return list(groups.values())


def adamw_groups(tensors: Iterable[AdamwTensor]) -> list[AdamwGroup]:
    """Cuts tensors into chunks, as `ema_groups` does; one group for each set of constants.

    Args:
        tensors: addresses on the device, in any order.

    Returns:
        Groups in order of first appearance; empty tensors are in none.
    """
    groups: dict[tuple[bool, str | None, str | None, bool], AdamwGroup] = {}
    for index, tensor in enumerate(tensors):
        aligned = all(start % 16 == 0 for place, start in enumerate(tensor.starts) if place != 4)  # 4: one number
        key = (tensor.starts[5] != 0, tensor.shadow_format, tensor.teacher_shadow_format, aligned)
        for first in range(0, tensor.size, EMA_CHUNK):
            group = groups.setdefault(key, AdamwGroup(*key, []))
            group.chunks.append((index, first, min(EMA_CHUNK, tensor.size - first)))
    return list(groups.values())


def smooth_l1_block() -> Tile:
    """Channels of a step of the loss: one warp per row, so a sum needs no shared memory and no barrier."""
    return Tile(1, 256, 1)


def smooth_l1_backward_block(channels: int) -> Tile:
    """The same of its gradient: a row of up to 1024 channels is one step, so that it waits for memory once."""
    return Tile(1, min(1024, max(256, _power_of_two(channels))), 1)


def row_tile(channels: int) -> Tile:
    """A whole row for one program; one warp up to 1024 channels, whose sums then need no shared memory.

    Raises:
        ValueError: the row does not fit.
    """
    block = _whole_row(channels)
    return Tile(1, block, max(1, block // 1024))


def statistics_tile() -> Tile:
    """Frames and channels of a step of `column_statistics`: 64 channels are one or two whole 128-byte lines."""
    return Tile(32, 64, 4)


def merge_tile() -> Tile:
    """Channels of a program of `merge_samples`."""
    return Tile(1, 128, 1)


def column_tile(channels: int, *, final_norm: bool) -> Tile:
    """Rows and channels of a program of `column_targets`.

    The statistics are 8 bytes for each channel and layer, read once for a tile: 32 rows make them 1/8 of 16-bit layers.
    A final norm needs whole rows, and so leaves registers for fewer of them.

    Raises:
        ValueError: a whole row is needed and does not fit.
    """
    if not final_norm:
        return Tile(32, 128, 8)
    block = _whole_row(channels)
    return Tile(max(1, 8192 // block), block, 16)


def restore_tile() -> Tile:
    """Places and channels of a program of `restore`; one bisection serves all its places."""
    return Tile(16, 128, 8)


def norm_gelu_tile(channels: int) -> Tile:
    """A whole row for one program of `norm_gelu`, weight, bias and their sums beside it: 16 channels a thread.

    Raises:
        ValueError: the row does not fit.
    """
    block = _whole_row(channels, LARGEST_AFFINE_ROW)
    return Tile(1, block, max(1, block // 512))


def norm_gelu_share(rows: int) -> int:
    """Rows of a program of `norm_gelu`: by their number alone, so that sums have the same bits on every device.

    4096 programs are enough for any device to end together; with 32 rows a program's sums over rows, two float32 rows,
    are 4 % of the bytes of its 16-bit rows. A multiple of 16, for which one kernel is compiled.
    """
    return max(32, 16 * cells(rows, 16 * 4096))


def attention_tile(element_size: int, dim: int) -> AttentionTile:
    """Queries, keys and channels of the attention kernels: as many as no kernel has to spill registers for.

    Products of float32 are made by the threads, those of 16 bits by the tensor cores, which want 64 rows.

    Raises:
        ValueError: the head does not fit.
    """
    if dim > LARGEST_HEAD:
        raise ValueError(f"a head of {dim} channels is too wide for the attention kernels; at most {LARGEST_HEAD} are")
    channels = max(16, _power_of_two(dim))
    if channels > 64:
        side = 16 if element_size == 4 else 32
        return AttentionTile(side, side, channels, 8)
    return AttentionTile(32, 16, channels, 8) if element_size == 4 else AttentionTile(64, 32, channels, 4)


def clamped_inverse(beta: float) -> float:
    """1 / beta as `smooth_l1_forward` takes it: the largest float32 where that is smaller; 0 for the squared error."""
    return 0.0 if beta == 0.0 else min(1.0 / beta, 3.4028234663852886e38)


def cells(count: int, size: int) -> int:
    """How many programs of `size` cover `count`."""
    return -(-count // size)


def _whole_row(channels: int, most: int = LARGEST_ROW) -> int:
    if channels > most:
        raise ValueError(f"a row of {channels} channels does not fit into registers; at most {most} do")
    return max(32, _power_of_two(channels))


def _power_of_two(count: int) -> int:
    """The smallest that is at least `count`, which is above 0."""
    return 1 << (count - 1).bit_length()
