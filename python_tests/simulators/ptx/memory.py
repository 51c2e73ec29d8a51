"""Memory that knows which bytes are allocated and which were written: bounds, alignment, uninitialised reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .types import UNSIGNED

GLOBAL_BASE = 0x7F0000000000
"""The address of the first byte of a `Memory`."""
FAR = 1 << 36
"""From this distance on a `Memory` is sparse: buffers stand at addresses of the caller's choice."""
WINDOWS = {"param": 0x300000000000, "local": 0x200000000000, "shared": 0x100000000000}
"""Where the other state spaces begin among generic addresses, highest first."""

_YES = np.uint8(0xFF)


class BadAccess(Exception):
    """An access that the space refuses; the caller knows the thread and the instruction."""

    def __init__(self, access: int, reason: str) -> None:
        super().__init__(reason)
        self.access = access
        """Which of the accesses of the call it was."""


class Space:
    """One state space: `owners` separate pieces of `stride` bytes (a piece per block, per thread, or one in all).

    Unwritten bytes read as 0xFF, which is NaN in every floating format.
    """

    def __init__(self, name: str, stride: int, owners: int = 1) -> None:
        self.name = name
        self.stride = -(-max(stride, 1) // 64) * 64
        self.data = np.full(self.stride * owners, _YES)
        self.allocated = np.zeros(self.stride * owners, np.uint8)
        self.written = np.zeros(self.stride * owners, np.uint8)

    def allocate(self, start: int, size: int) -> None:
        """Makes bytes [start, start + size) of every piece accessible."""
        self.allocated.reshape(-1, self.stride)[:, start : start + size] = _YES

    def locate(self, address: NDArray, width: int, owner: NDArray | int) -> NDArray:
        """Addresses of accesses of `width` bytes -> positions in `data`, after the checks of bounds and alignment."""
        misaligned = address & (width - 1) != 0
        if misaligned.any():
            raise BadAccess(int(misaligned.argmax()), f"misaligned {self.name} address for {width} bytes")
        outside = (address < 0) | (address + width > self.stride)
        position = np.where(outside, 0, address) + owner * self.stride
        outside |= ~(self.allocated[position] & self.allocated[position + width - 1]).astype(bool)
        if outside.any():
            first = int(outside.argmax())
            count = f"{int(outside.sum())} of {outside.size} accesses"
            where = self.describe(int(address[first]))
            raise BadAccess(first, f"out of bounds in {self.name} memory ({count}): {where}")
        return position

    def check_written(self, position: NDArray, width: int) -> None:
        """Refuses to read a byte that nobody wrote."""
        step = min(width, 8)
        view = self.written.view(UNSIGNED[8 * step])
        for part in range(0, width, step):
            missing = view[(position + part) // step] != np.iinfo(view.dtype).max
            if missing.any():
                first = int(missing.argmax())
                where = self.describe(int(position[first] % self.stride))
                raise BadAccess(first, f"uninitialised {self.name} memory is read: {where}")

    def load(self, position: NDArray, width: int) -> NDArray:
        """The bits at these positions, as unsigned integers of `width` bytes."""
        return self.data.view(UNSIGNED[8 * width])[position // width]

    def store(self, position: NDArray, bits: NDArray) -> None:
        """Writes unsigned integers; of several at one position the last one stays."""
        width = bits.dtype.itemsize
        self.data.view(bits.dtype)[position // width] = bits
        self.written.view(bits.dtype)[position // width] = np.iinfo(bits.dtype).max

    def describe(self, address: int) -> str:
        """Names the place for an error message."""
        return f"address {address}"


class Buffer:
    """One array in global memory; `address` is what a kernel gets."""

    def __init__(
        self, memory: Memory, name: str, start: int, shape: tuple[int, ...], dtype: DTypeLike, at: int | None
    ) -> None:
        self.name, self.start, self.shape, self.dtype = name, start, shape, np.dtype(dtype)
        self.bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.address = GLOBAL_BASE + start if at is None else at
        self._memory = memory

    def numpy(self) -> NDArray:
        """A copy of what it holds now."""
        return self._memory.data[self.start : self.start + self.bytes].view(self.dtype).reshape(self.shape).copy()


class Memory(Space):
    """Global memory: one arena in which every buffer stands between bytes that nobody may touch.

    Buffers may also stand `at` far addresses, with nothing in between: the pieces that a kernel touches of a tensor
    that no machine could hold. They are kept in the arena too, and only their addresses are far.
    """

    GAP = 512

    def __init__(self, size: int = 1 << 22) -> None:
        super().__init__("global", size)
        self.buffers: list[Buffer] = []
        self._far: list[Buffer] = []
        """Ascending addresses."""

    def put(self, array: ArrayLike, name: str, *, offset: int = 0, at: int | None = None) -> Buffer:
        """A buffer with these values; see `reserve`."""
        array = np.ascontiguousarray(array)
        buffer = self.reserve(array.shape, array.dtype, name, offset=offset, at=at)
        self.data[buffer.start : buffer.start + buffer.bytes] = array.reshape(-1).view(np.uint8)
        self.written[buffer.start : buffer.start + buffer.bytes] = _YES
        return buffer

    def reserve(
        self, shape: int | tuple[int, ...], dtype: DTypeLike, name: str, *, offset: int = 0, at: int | None = None
    ) -> Buffer:
        """A buffer whose bytes count as uninitialised.

        Args:
            shape: of the array.
            dtype: of the array.
            name: for error messages.
            offset: bytes past a multiple of 256.
            at: its address, GLOBAL_BASE + FAR or more, instead of the next one.
        """
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        offset = offset if at is None else at % 256
        end = self.buffers[-1].start + self.buffers[-1].bytes if self.buffers else 0
        start = -(-(end + self.GAP) // 256) * 256 + offset
        buffer = Buffer(self, name, start, shape, dtype, at)
        if start + buffer.bytes + self.GAP > self.stride:
            raise ValueError(f"Memory({self.stride}) is too small for buffer {name!r} of {buffer.bytes} bytes")
        if at is not None:
            if at < GLOBAL_BASE + FAR:
                raise ValueError(f"buffer {name!r} cannot stand at {at:#x}: far ones begin at {GLOBAL_BASE + FAR:#x}")
            if any(at < other.address + other.bytes and other.address < at + buffer.bytes for other in self._far):
                raise ValueError(f"buffer {name!r} at {at:#x} overlaps another one")
            self._far = sorted([*self._far, buffer], key=lambda other: other.address)
        self.allocate(start, buffer.bytes)
        self.buffers.append(buffer)
        return buffer

    def locate(self, address: NDArray, width: int, owner: NDArray | int) -> NDArray:
        """Far addresses become those of the arena first; what is not in a far buffer stays outside of everything."""
        far = address >= FAR
        if self._far and far.any():
            starts = np.array([buffer.address - GLOBAL_BASE for buffer in self._far])
            which = np.maximum(np.searchsorted(starts, address, "right") - 1, 0)
            distance = address - starts[which]
            ends, places = (np.array([getattr(b, name) for b in self._far]) for name in ("bytes", "start"))
            inside = far & (distance >= 0) & (distance + width <= ends[which])
            address = np.where(inside, places[which] + distance, address)
        return super().locate(address, width, owner)

    def describe(self, address: int) -> str:
        """The nearest buffer and the distance from its ends."""
        if not self.buffers:
            return "there is no buffer"

        def start(buffer: Buffer) -> int:
            return buffer.address - GLOBAL_BASE if address >= FAR else buffer.start

        near = min(self.buffers, key=lambda b: max(start(b) - address, address - (start(b) + b.bytes - 1), 0))
        return f"byte {address - start(near)} of buffer {near.name!r} of {near.bytes} bytes"
