"""The checks of norm and GELU with weight and bias: rows in shares, statistics, and sums over rows for each program."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from d2v_fast.kernels import launch
from rounding import check_rounded
from simulated import TORCH, Device, Run, noise
from simulated_inputs import Moved, NoWorse
from torch import Tensor

SHARE = 16
FULL = 64
"""Rows of a program where bytes are counted: what it looks up for itself is then little."""


def _sizes(run: Run) -> list[tuple[int, int]]:
    """Rows and channels: shares of one row, of all and of some; a row's end in each piece that a warp holds of it."""
    dtype = TORCH[run.case.arguments["x"].removeprefix("*")]
    block, piece = run.case.constants["BLOCK"], 512 // dtype.itemsize
    sizes = [(2 + i, channels) for i, channels in enumerate(range(16, block, piece))]
    return [(SHARE + 1, 48), (SHARE, 400), *sizes, (FULL, block)]


class Rows:
    """The tensors of one size, on the device and as torch tensors; a program more than there are shares."""

    def __init__(self, run: Run, rows: int, channels: int) -> None:
        arguments = run.case.arguments
        self.dtype, kind = (TORCH[arguments[name].removeprefix("*")] for name in ("x", "weight"))
        self.x = (noise(rows, channels, seed=channels) * 3 + 1).to(self.dtype)
        self.gradient = (noise(rows, channels, seed=channels + 1) + 0.5).to(self.dtype)
        self.weight, self.bias = noise(2, channels, seed=2).to(kind)
        share = FULL if rows == FULL else SHARE
        self.device, self.programs = Device(), launch.cells(rows, share) + 1
        self.values = {name: self.device.put(getattr(self, name), name) for name in ("x", "weight", "bias")}
        self.values |= {"rows": rows, "channels": channels, "share": share}

    def of_torch(self, dtype: torch.dtype) -> list[Tensor]:
        leaves = [part.to(dtype, copy=True).requires_grad_() for part in (self.x, self.weight, self.bias)]
        y = F.gelu(F.layer_norm(leaves[0], leaves[0].shape[-1:], *leaves[1:]))
        return [y.detach(), *torch.autograd.grad(y, leaves, self.gradient.to(dtype))]

    def statistics(self) -> list[Tensor]:
        """float64 mean and scale of each row."""
        x = self.x.double()
        return [x.mean(1), (x.var(1, correction=0) + 1e-5).rsqrt()]

    def moved(self, report, rows_moved: int, single: int) -> Moved:
        """`single`: further bytes. Each program reads weight and bias, each row's numbers are a sector of their own."""
        parameters, numbers = 2 * self.weight.nbytes, 8 * len(self.x)
        floor = rows_moved * self.x.nbytes + parameters + numbers + single
        return Moved(report, floor, floor + parameters * (self.programs - 1) + 7 * numbers)


def forward(run: Run, no_worse_than: NoWorse) -> Moved:
    for rows, channels in _sizes(run):
        data = Rows(run, rows, channels)
        results = {"y": data.device.empty(data.x.shape, data.dtype, "y")}
        results |= {name: data.device.empty((rows,), torch.float32, name) for name in ("means", "scales")}
        report = run(data.device, (data.programs,), **data.values, **results, eps=1e-5)
        exact, torchs = (data.of_torch(wide)[0] for wide in (torch.float64, torch.float32))
        no_worse_than(data.device.get(results["y"]), torchs.to(data.dtype), exact)
        check_rounded(data.device.get(results["y"]), exact)
        for name, statistic in zip(("means", "scales"), data.statistics(), strict=True):
            torch.testing.assert_close(data.device.get(results[name]).double(), statistic, rtol=2e-6, atol=1e-6)
    return data.moved(report, 2, 0)


def backward(run: Run, no_worse_than: NoWorse) -> Moved:
    for rows, channels in _sizes(run):
        data = Rows(run, rows, channels)
        values = data.values | {"gradient": data.device.put(data.gradient, "gradient")}
        for name, statistic in zip(("means", "scales"), data.statistics(), strict=True):
            values[name] = data.device.put(statistic.float(), name)
        of_x = data.device.empty(data.x.shape, data.dtype, "of_x")
        sums = data.device.empty((data.programs, 2, channels), torch.float32, "sums")
        report = run(data.device, (data.programs,), **values, of_x=of_x, sums=sums)
        exact, torchs = (data.of_torch(wide)[1:] for wide in (torch.float64, torch.float32))
        no_worse_than(data.device.get(of_x), torchs[0].to(data.dtype), exact[0])
        check_rounded(data.device.get(of_x), exact[0])
        shares = data.device.get(sums)
        assert not shares[-1].any(), "the program without a row"
        for ours, theirs, right in zip(shares.sum(0), torchs[1:], exact[1:], strict=True):
            no_worse_than(ours, theirs, right)
    return data.moved(report, 3, sums.bytes)


CHECKS = {"norm_gelu": forward, "norm_gelu_backward": backward}
"""By the name of the kernel's function."""
