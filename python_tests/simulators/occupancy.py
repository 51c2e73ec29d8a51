"""How many warps of a kernel fit on one multiprocessor at a time, by NVIDIA's tables."""

from __future__ import annotations

# Of one multiprocessor: shared memory in bytes. Warps, registers and blocks are the same for all three.
SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
WARPS, REGISTERS, BLOCKS = 64, 65536, 32
SHARED_OF_SYSTEM = 1024  # taken of each block
REGISTERS_PER_WARP = 256  # what a warp's registers are rounded up to


def occupancy(registers: int, warps: int, shared: int, arch: int) -> int:
    """Warps that are there at a time.

    Args:
        registers: of each thread.
        warps: of a block.
        shared: bytes of a block.
        arch: a key of SHARED.
    """
    taken = -(-registers * 32 // REGISTERS_PER_WARP) * REGISTERS_PER_WARP * warps
    return min(BLOCKS, WARPS // warps, REGISTERS // taken, SHARED[arch] // (shared + SHARED_OF_SYSTEM)) * warps
