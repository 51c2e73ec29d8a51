"""Kept tokens back on the grid, on a GPU: Triton, a program for some places and channels."""

from __future__ import annotations

from torch import Tensor

from d2v_fast import reference
from d2v_fast.kernels import launch
from d2v_fast.ops._library import Backend
from d2v_fast.ops.device import launching, routes

_COVERAGE = routes.Coverage(
    cuda="",
    triton="every dtype",
    torch="nothing",
    why="every byte moves once and one launch does it: nothing is left for CUDA C++ to save",
)


def restore(tokens: Tensor, kept: Tensor, noise: Tensor, samples: int, width: int) -> Tensor:
    """The operation, with checked arguments.

    Args:
        tokens: [K, C].
        kept: int64 [K].
        noise: [N * T - K, C].
        samples: N.
        width: T.

    Returns:
        [N, T, C].

    Raises:
        RuntimeError: a launch failed.
        IndexError: bad indices, in debug mode.
    """
    with launching.on(tokens.device):
        launching.check_indices(kept, None, samples, width)
        if routes.obstacles(tokens.device).triton is not None:
            return reference.restore(tokens, kept, noise, samples, width)
        places, channels = samples * width, tokens.shape[1]
        out = tokens.new_empty(samples, width, channels)
        if out.numel() == 0:
            return out
        from d2v_fast.kernels.restore import restore as kernel

        tile, count = launch.restore_tile(), tokens.shape[0]
        grid = (launch.cells(places, tile.rows), launch.cells(channels, tile.channels))
        rows = tokens.contiguous(), noise.contiguous(), kept.contiguous(), out
        sizes = places, count, channels, count.bit_length(), tile.rows, tile.channels
        launching.start(kernel, grid, *rows, *sizes, warps=tile.warps)
        return out


def backend() -> Backend:
    """The entry in `backends()`."""
    return routes.describe(_COVERAGE)
