"""The checks of the kernels around a decoder: kept tokens and noise to their places, norm and GELU of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from compile_offline import RESTORE_HALVINGS
from d2v_fast.kernels import launch
from rounding import check_rounded
from simulated import TORCH, Device, Run, noise
from simulated_inputs import Moved, NoWorse
from torch import Tensor

# Places, channels, kept: a tile is 16 places of 128 channels.
RESTORE = [(16, 16, 16), (17, 144, 0), (5, 48, 2), (40, 80, 21), (23, 128, 1), (320, 768, 160)]
ODD_RESTORE = [(16, 1, 16), (17, 133, 0), (5, 47, 2), (40, 77, 21), (31, 257, 8), (240, 3, 200), (64, 129, 40)]


def restore(run: Run, no_worse_than: NoWorse) -> Moved:
    dtype, odd = TORCH[run.case.arguments["tokens"].removeprefix("*")], "channels" not in run.case.divisible
    for seed, (places, channels, count) in enumerate(ODD_RESTORE if odd else RESTORE):
        device, generator = Device(1 << 23), torch.Generator().manual_seed(seed)
        kept = torch.randperm(places, generator=generator)[:count].sort().values
        hidden = torch.ones(places, dtype=torch.bool).index_fill(0, kept, False)
        given = noise(places, channels, seed=seed, dtype=dtype)
        values = {"tokens": device.put(given[kept], "tokens"), "noise": device.put(given[hidden], "noise")}
        values |= {"kept": device.put(kept, "kept"), "out": device.empty(given.shape, dtype, "out")}
        tile = launch.restore_tile()
        grid = launch.cells(places, tile.rows), launch.cells(channels, tile.channels)
        report = run(device, grid, **values, places=places, count=count, channels=channels)
        assert torch.equal(device.get(values["out"]), given)
    # Each program finds its first place, and looks up the numbers of as many tokens as it has places.
    programs = grid[0] * grid[1]
    looked_up = programs * (32 * RESTORE_HALVINGS + 8 * tile.rows)
    rows = 2 * given.nbytes
    return Moved(report, rows + 8 * count, rows + looked_up, rows + run.case.warps * looked_up)


WIDE_ROWS = [(2, 4112), (1, 6000), (2, 8192)]


def _sizes(run: Run, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Rows and channels; a warp holds a row in pieces of 128 or 256 channels: an end in each of them."""
    if run.case.constants["BLOCK"] != 1024:
        return WIDE_ROWS
    piece = 512 // dtype.itemsize
    return [(2, channels) for channels in range(16, 1024, piece)] + [(12, 1024)]


def _of_torch(z: Tensor, x: Tensor | None, gradient: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    leaf = z.to(dtype, copy=True).requires_grad_()
    y = F.gelu(F.layer_norm(leaf, leaf.shape[-1:]))
    (of_z,) = torch.autograd.grad(y, leaf, gradient.to(dtype))
    return (y if x is None else y + x.to(dtype)).detach(), of_z


def finish(run: Run, no_worse_than: NoWorse) -> Moved:
    dtype = TORCH[run.case.arguments["z"].removeprefix("*")]
    for seed, (rows, channels) in enumerate(_sizes(run, dtype)):
        device = Device()
        z, x = (noise(rows, channels, seed=seed + i) * 3 + 1 for i in (0, 99))
        z, x = z.to(dtype), x.to(dtype) if "x" in run.case.arguments else None
        values = {"z": device.put(z, "z"), "y": device.empty(z.shape, dtype, "y")}
        if x is not None:
            values["x"] = device.put(x, "x")
        report = run(device, (rows,), **values, channels=channels, eps=1e-5)
        exact, torchs = (_of_torch(z, x, z, wide)[0] for wide in (torch.float64, torch.float32))
        no_worse_than(device.get(values["y"]), torchs.to(dtype), exact)
        check_rounded(device.get(values["y"]), exact)
    return Moved(report, z.nbytes * (2 if x is None else 3))


def unfinish(run: Run, no_worse_than: NoWorse) -> Moved:
    dtype = TORCH[run.case.arguments["z"].removeprefix("*")]
    for seed, (rows, channels) in enumerate(_sizes(run, dtype)):
        device = Device()
        z, gradient = (noise(rows, channels, seed=seed + i) for i in (0, 99))
        z, gradient = (z * 3 + 1).to(dtype), (gradient + 0.5).to(dtype)
        values = {"z": device.put(z, "z"), "gradient": device.put(gradient, "gradient")}
        values["of_z"] = device.empty(z.shape, dtype, "of_z")
        report = run(device, (rows,), **values, channels=channels, eps=1e-5)
        exact, torchs = (_of_torch(z, None, gradient, wide)[1] for wide in (torch.float64, torch.float32))
        no_worse_than(device.get(values["of_z"]), torchs.to(dtype), exact)
        check_rounded(device.get(values["of_z"]), exact)
    return Moved(report, 3 * z.nbytes)


CHECKS: dict[str, Callable[[Run, NoWorse], Moved]] = {"restore": restore, "finish": finish, "unfinish": unfinish}
"""By the name of the kernel's function."""
