"""Arrays as people have them, as torch takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain(given: Any) -> np.ndarray:
    """An array that `torch.from_numpy` takes, without a copy where none is needed.

    Negative and odd strides, a foreign byte order, memory that may not be written to and long doubles are copied; a
    tensor is brought to the CPU, without its graph.

    Args:
        given: An array, a tensor, or what numpy makes an array of.

    Raises:
        TypeError, ValueError: Nothing of that kind (lists of different lengths, sparse tensors).
    """
    if isinstance(given, Tensor):
        given = given.detach().cpu().resolve_neg().resolve_conj()
        array = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    else:
        array = np.asarray(given)
    if array.dtype == np.longdouble and array.dtype != np.float64:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    odd = any(stride < 0 or stride % max(1, array.itemsize) for stride in array.strides)
    return array.copy() if odd or not (array.flags.writeable and array.flags.aligned) else array


def as_tensor(given: Any) -> Tensor:
    """A tensor of what a source gives: the tensor itself, or one over the memory of `plain`.

    Raises:
        TypeError, ValueError: It is no array, or of a number format that torch does not have.
    """
    return given.detach() if isinstance(given, Tensor) else torch.from_numpy(plain(given))
