"""Tensors out of safetensors files."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load, load_file
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, on the CPU.

    The library for these files writes to every path, and reads by paths in UTF-8 only; others are read here.

    Raises:
        OSError, SafetensorError: It cannot be read, or is damaged.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a name on the disk may be any bytes, and Python keeps them
        return load(path.read_bytes())
    return load_file(path)
