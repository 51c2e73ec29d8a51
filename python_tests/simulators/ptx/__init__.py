"""Runs PTX, as nvcc or Triton wrote it, on the CPU with numpy.

It finds wrong, misaligned and uninitialised accesses, races and deadlocks, counts the traffic and the lines that ran.

    kernel = parse(ptx)["name"]
    memory = Memory()
    x, y = memory.put(array, "x"), memory.reserve(array.shape, array.dtype, "y")
    report = launch(kernel, grid, block, [x, y, array.size], memory)
    y.numpy()

What it cannot tell: speed, what ptxas makes of the PTX, the rounding of approximate functions, weak memory order.
"""

from .coverage import Coverage
from .errors import Fault, NotSimulated, Race
from .launch import Report, launch
from .memory import Buffer, Memory
from .parse import Instruction, Kernel, parse
from .traffic import Traffic

__all__ = [
    "Buffer",
    "Coverage",
    "Fault",
    "Instruction",
    "Kernel",
    "Memory",
    "NotSimulated",
    "Race",
    "Report",
    "Traffic",
    "launch",
    "parse",
]
