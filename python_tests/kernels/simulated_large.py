"""Tensors that no machine could hold, of which the simulator holds what a kernel touches: do addresses wrap anywhere?

Indices of elements go beyond 2^32 and addresses over hundreds of gigabytes; an index that is cut off to 32 bits ends
where no buffer is. Sizes that fit into 31 bits are passed as such, as the launcher does: then it is their products that
are large.
"""

from __future__ import annotations

import torch
from ptx import Buffer
from ptx.memory import FAR, GLOBAL_BASE
from simulated import TORCH, Device, Run, noise
from torch import Tensor

from d2v_fast import reference

CHANNELS = 16
LAST_BLOCKS = (1 << 31) - 6
"""A grid has at most 2^31 - 1 blocks; these are its last five."""


class FarDevice(Device):
    """Global memory of a terabyte, with holes."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self._next = GLOBAL_BASE + FAR

    def base(self, size: int) -> int:
        """The address of `size` bytes of which nothing is there yet."""
        start = self._next
        self._next += -(-size // (1 << 20)) * (1 << 20)
        assert self._next < 1 << 47, "beyond the addresses of a GPU"
        return start

    def rows(self, name: str, values: Tensor, first: int, *, empty: bool = False) -> tuple[int, Buffer]:
        """A tensor of which only the rows from `first` on are there: its address, and the rows."""
        row = values[0].numel() * values.itemsize
        base = self.base((first + len(values)) * row)
        make = self.empty(tuple(values.shape), values.dtype, name, at=base + first * row) if empty else None
        return base, make or self.put(values, name, at=base + first * row)


def check_targets(run: Run, no_worse_than, *, layer_norm: str | None, final_norm: str | None) -> None:
    """Rows of `row_targets` or `column_targets`, from samples and frames far apart, to a result's last rows."""
    by_column = "means" in run.case.arguments
    kinds, device = run.case.arguments["layers"], FarDevice()
    dtype, wide = TORCH[kinds[0].removeprefix("*")], run.case.arguments["frames"] == "i64"
    frames = 1 << (32 if wide else 30)
    sample_stride, frame_stride = (1 << 31) + (16 if wide else -16), CHANNELS if wide else 2 * CHANNELS
    places = [(0, 5), (0, frames - 1), (1, 3), (3, 7), (4, 2), (5, frames - 1)]
    block = run.case.constants["ROWS"] if by_column else 1
    # By columns two tiles of rows, the second one with large positions only.
    places[-1:] = [(5, frames - 1 - 3 * i) for i in reversed(range(2 * block - 5 if by_column else 1))]
    first = (1 << 31) // block - 3 if by_column else LAST_BLOCKS
    if "rows" not in run.case.arguments:  # the rows are the positions: those of the last blocks
        frames = (1 << 28) - 100
        places = [
            ((first * block + i) // frames, (first * block + i) % frames) for i in range(2 * block if by_column else 5)
        ]
    batch, number = 1 + max(sample for sample, _ in places), len(places)
    values: dict = {"channels": CHANNELS, "frames": frames, "eps": 1e-5}
    values |= {"sample_stride": sample_stride, "frame_stride": frame_stride}
    x = [noise(number, CHANNELS, seed=k, dtype=dtype) for k in range(len(kinds))]
    extent = max(sample * sample_stride + frame * frame_stride for sample, frame in places) + CHANNELS
    start = device.base(extent * dtype.itemsize + (len(kinds) << 20))
    for k, layer in enumerate(x):  # one beside the other: their rows lie far from each other
        for i, (sample, frame) in enumerate(places):
            at = start + (k << 20) + (sample * sample_stride + frame * frame_stride) * dtype.itemsize
            device.put(layer[i], f"layer{k} sample{sample} frame{frame}", at=at)
    values["layers"] = tuple(start + (k << 20) for k in range(len(kinds)))
    counts = torch.full((batch,), frames)
    if "lengths" in run.case.arguments:
        counts[places[3][0]] = places[3][1]
        values["lengths"] = device.put(counts, "lengths")
    if "rows" in run.case.arguments:
        positions = torch.tensor([sample * frames + frame for sample, frame in places])
        values["rows"], _ = device.rows("rows", positions, first * block)
    values["out"], out = device.rows("out", torch.empty(number, CHANNELS), first * block, empty=True)

    samples = [sample for sample, _ in places]
    padding = torch.tensor([frame >= counts[sample] for sample, frame in places])
    statistics = [torch.zeros(len(kinds), number, CHANNELS), torch.ones(len(kinds), number, CHANNELS)]
    if by_column:
        shape = len(kinds), batch, CHANNELS
        full = [noise(*shape, seed=98), noise(*shape, seed=99)]
        for name, tensor in zip(("means", "scales"), full, strict=True):
            values[name] = device.put(tensor, name)
        own = samples if layer_norm == "instance" else [0] * number
        statistics = [tensor[:, own] for tensor in full]
        values |= {"count": first * block + number, "batch": batch}
    run(device, (number // block,), first_block=first, **values)

    def expected(of: torch.dtype) -> Tensor:
        mean, scale = (tensor.to(of) for tensor in statistics)
        layers = [(layer.to(of) - mean[k]) * scale[k] for k, layer in enumerate(x)]
        norm = "layer" if layer_norm == "layer" else None
        result = reference.layer_targets([layer[None] for layer in layers], layer_norm=norm, final_norm=final_norm)[0]
        return result.masked_fill(padding[:, None], 0)

    no_worse_than(device.get(out), expected(torch.float32), expected(torch.float64))
