"""Inputs of the simulated kernels, on the device and as torch tensors, and the bytes that their forms must move."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from ptx import Report
from simulated import TORCH, Device, Run, noise
from torch import Tensor

from d2v_fast import reference

NoWorse = Callable[[Tensor, Tensor, Tensor], None]


class Moved(NamedTuple):
    """The last and largest launch of a check, and the fewest bytes of it (0: not compared); see `check_traffic`."""

    report: Report
    floor: int
    sectors: int | None = None
    requests: int | None = None


def loss_inputs(run: Run, count: int, channels: int, device: Device):
    """pred [positions, C], target [M, C], rows or None, and all of them on the device."""
    positions = count + 3 if "rows" in run.case.arguments else count
    rows = torch.randperm(positions, generator=torch.Generator().manual_seed(1))[:count] if positions > count else None
    kinds = (run.case.arguments.get(name, "*fp32").removeprefix("*") for name in ("pred", "target"))
    if "pred" not in run.case.arguments:
        kinds = (run.case.arguments["gradient"].removeprefix("*"), "fp32")
    pred, target = (
        noise(n, channels, seed=i, dtype=TORCH[k])
        for i, (n, k) in enumerate(zip((positions, count), kinds, strict=True))
    )
    values = {"pred": device.put(pred, "pred"), "target": device.put(target, "target")}
    if rows is not None:
        values["rows"] = device.put(rows, "rows")
    return pred, target, rows, values


class Layers:
    """K layers [B, T, C] on the device, with rows and lengths where the case has them."""

    def __init__(self, run: Run, batch: int, frames: int, channels: int, count: int | None = None) -> None:
        kinds = run.case.arguments["layers"]
        self.dtype, self.shape = TORCH[kinds[0].removeprefix("*")], (batch, frames, channels)
        self.device = Device(1 << 23)
        self.layers = [noise(*self.shape, seed=k, dtype=self.dtype) + k % 3 for k in range(len(kinds))]
        self.values = {"layers": tuple(self.device.put(x, f"layer{k}") for k, x in enumerate(self.layers))}
        self.values |= {"frames": frames, "channels": channels, "sample_stride": frames * channels, "eps": 1e-5}
        self.values["frame_stride"] = channels
        self.lengths = self.rows = None
        if "lengths" in run.case.arguments:
            self.lengths = torch.tensor([frames, *range(frames - 2, 0, -3)][:batch])
            self.values["lengths"] = self.device.put(self.lengths, "lengths")
        if "rows" in run.case.arguments:
            every = torch.randperm(batch * frames, generator=torch.Generator().manual_seed(3))
            self.rows = every[:count].sort().values
            self.values["rows"] = self.device.put(self.rows, "rows")
        self.count = batch * frames if self.rows is None else len(self.rows)

    @property
    def counts(self) -> Tensor:
        """int64 [B]: frames of each sample that are not padding."""
        return torch.full(self.shape[:1], self.shape[1]) if self.lengths is None else self.lengths

    @property
    def frame_bytes(self) -> int:
        """Of one frame of all layers."""
        return len(self.layers) * self.shape[2] * self.dtype.itemsize

    @property
    def targets_bytes(self) -> int:
        """Of the wanted rows of all layers (padding is not read), their numbers, the lengths and the result."""
        position = torch.arange(self.count) if self.rows is None else self.rows
        read = position % self.shape[1] < self.counts[position // self.shape[1]]
        numbers = 8 * (len(self.rows) if self.rows is not None else 0)
        numbers += 8 * (len(self.lengths) if self.lengths is not None else 0)
        return int(read.sum()) * self.frame_bytes + 4 * self.count * self.shape[2] + numbers

    def statistics(self, *, instance: bool) -> tuple[Tensor, Tensor, Tensor]:
        """float64 mean, sum of squares and variance [K, B, C], or [K, 1, C] for all samples together."""
        x = torch.stack(self.layers).double()
        mask = (torch.arange(self.shape[1]) < self.counts[:, None])[None, :, :, None]
        dims = (2,) if instance else (1, 2)
        counts = mask.sum(dims, keepdim=True)
        mean = (x * mask).sum(dims, keepdim=True) / counts
        squares = ((x - mean) ** 2 * mask).sum(dims, keepdim=True)
        shape = (len(self.layers), -1, self.shape[2])
        return mean.reshape(shape), squares.reshape(shape), (squares / counts).reshape(shape)

    def check(self, out, no_worse_than, **norms) -> None:
        options = {"rows": self.rows, "lengths": self.lengths, **norms}
        exact = reference.layer_targets([x.double() for x in self.layers], **options).flatten(0, -2)
        theirs = reference.layer_targets(self.layers, **options).flatten(0, -2)
        no_worse_than(self.device.get(out), theirs, exact)
