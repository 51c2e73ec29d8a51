"""Types of the compiled CUDA module (csrc/bind_cuda.cpp), which is there when nvcc was. Addresses are integers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def unusable(device: int, /) -> str | None: ...
def ema_table(tensors: int, count: int, /) -> npt.NDArray[np.int64]: ...
def ema(table: int, count: int, decay: int, device: int, stream: int, /) -> None: ...
def layer_targets_reads(
    layers: int, batch: int, frames: int, channels: int, count: int, dtype: int, device: int, /
) -> int: ...
def layer_targets(
    layers: Sequence[int],
    strides: Sequence[int],
    rows: int,
    lengths: int,
    out: int,
    batch: int,
    frames: int,
    channels: int,
    count: int,
    dtype: int,
    eps: float,
    device: int,
    stream: int,
    /,
) -> None: ...
