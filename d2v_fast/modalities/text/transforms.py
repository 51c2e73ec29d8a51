"""From a sequence of tokens as it was read, and its plan, to what the model sees."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from d2v_fast.data.arrays import as_tensor
from d2v_fast.errors import SampleError


def tokens_into(out: Tensor, block: np.ndarray | Tensor, name: str) -> None:
    """Writes a block of tokens to `out`, int64 [T].

    Raises:
        SampleError: A block of another length.
    """
    if tuple(block.shape) != tuple(out.shape):
        raise SampleError(name, f"is {list(block.shape)}, but the source said {list(out.shape)} tokens")
    out.copy_(as_tensor(block))
