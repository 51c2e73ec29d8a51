"""Matrices in .npy files, one sample a file: their shape from the header, their numbers on demand."""

from __future__ import annotations

from io import BytesIO
from typing import BinaryIO

import numpy as np

from d2v_fast.data.store import Store
from d2v_fast.errors import SampleError

ENDING = ".npy"

MOST = 1 << 28
"""Larger matrices are refused: a sample is normalised as a whole, so it must fit into memory."""

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_shape(store: Store, index: int) -> tuple[int, int]:
    """The shape of the matrix in a file, from its header; one dimension counts as a single column.

    Raises:
        SampleError: It is no .npy file, or no matrix of numbers.
    """
    label = store.label(index)
    with store.open(index) as file:
        shape, dtype = _header(file, label)
    return checked(shape, dtype, label)


def _header(file: BinaryIO, label: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and number format; the file stands at its first number then.

    Raises:
        SampleError: It is no .npy file.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"format {version}")
        shape, _, dtype = _HEADERS[version](file)
    except ValueError as error:
        raise SampleError(label, f"is no .npy file that can be read: {str(error).splitlines()[0]}") from error
    return shape, dtype


def checked(shape: tuple[int, ...], dtype: np.dtype, label: str) -> tuple[int, int]:
    """The shape of a matrix, if an array is one.

    Raises:
        SampleError: It has another number of dimensions, no numbers, is empty or too large.
    """
    if dtype.kind not in "iuf" or len(shape) not in (1, 2) or min(shape) <= 0:
        raise SampleError(label, f"is {dtype} {list(shape)}; it should be numbers, [time, channels] or the other way")
    height, width = shape if len(shape) == 2 else (*shape, 1)
    if height * width > MOST:
        raise SampleError(label, f"has {height * width} numbers (at most {MOST} are read): cut it")
    return height, width


def load(store: Store, index: int, shape: tuple[int, int]) -> np.ndarray:
    """Reads a matrix; an array of one dimension becomes a column.

    Raises:
        SampleError: The file is gone, cut off, damaged, or no longer of the shape in the index.
    """
    label = store.label(index)
    file = BytesIO(store.read(index).data)
    shape_now, dtype = _header(file, label)
    found = checked(shape_now, dtype, label)
    if found != shape:
        raise SampleError(label, f"is {list(found)}, but was {list(shape)} when the data was indexed")
    there, needed = file.getbuffer().nbytes - file.tell(), found[0] * found[1] * dtype.itemsize
    if there < needed:  # before memory is taken for it
        raise SampleError(label, f"is cut off: {there} of {needed} bytes of numbers are there")
    file.seek(0)
    try:
        matrix = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SampleError(label, f"cannot be read: {str(error).splitlines()[0]}") from error
    return np.asarray(matrix.reshape(found))


def load_part(store: Store, index: int, shape: tuple[int, int], entries: slice, axis: int) -> np.ndarray | None:
    """Reads some entries of a matrix along an axis; nothing else is read, as the file is mapped into memory.

    Args:
        store: Where the file is.
        index: Its number.
        shape: Of the matrix, as in the index.
        entries: Which ones.
        axis: Along which.

    Returns:
        None for what is no file of its own: a member of an archive, for example.

    Raises:
        SampleError: The file is gone, cut off, damaged, or no longer of the shape in the index.
    """
    label, path = store.label(index), store.path(index)
    if path is None:
        return None
    with path.open("rb") as file:
        shape_now, dtype = _header(file, label)
    found = checked(shape_now, dtype, label)
    if found != shape:
        raise SampleError(label, f"is {list(found)}, but was {list(shape)} when the data was indexed")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SampleError(label, f"cannot be read: {str(error).splitlines()[0]}") from error
    return np.array(mapped.reshape(found)[(slice(None),) * axis + (entries,)])
