"""The PTX that Triton really produces, executed in the simulator: results, races, addresses, coverage and traffic.

Nothing here was measured on a GPU. D2V_FAST_SIMULATE=all adds the architectures that are left out by default.
"""

from __future__ import annotations

import os
import re

import pytest
import torch

pytest.importorskip("triton")

import compile_offline
from compile_offline import CASES
from d2v_fast.kernels import launch
from ptx import Coverage, Fault, Race, parse
from simulated import Device, Run
from torch import Tensor

from d2v_fast import reference

TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DRAM_LIMIT, SECTOR_LIMIT = 1.02, 1.1
ARCHS = (75, 80, 86, 89, 90, 100, 120) if os.environ.get("D2V_FAST_SIMULATE") == "all" else (80, 90, 100)

_WIDE = "eight 16-bit numbers a thread: their float32 partners come in two loads of every other half sector"
_SHARED = "every warp of a tile loads the tile's statistics for itself, out of the L1"
REQUEST_LIMITS: dict[str, tuple[float, str]] = {
    "forward bf16": (1.55, _WIDE),
    "forward bf16 squared rows": (1.55, _WIDE),
    "forward f16 no gradient": (1.7, _WIDE),
    "columns bf16 K8": (3.0, _SHARED),
    "columns bf16 K8 batch": (2.4, _SHARED),
}
"""How many times the floor the L1 may be asked for, where it is more than SECTOR_LIMIT, and why."""

_DIVISION = "positions of 2**32 and more"
_LOOP = "skips the loop over a tile's samples, of which there is at least one"
_COLUMNS = {"div.s64": (8, _DIVISION), " bra $L": (1, _LOOP)}
ALLOWED: dict[str, dict[str, tuple[int, str]]] = {
    **{name: {"div.s64": (8, _DIVISION)} for name in CASES if name.startswith("rows")},
    **{name: _COLUMNS for name in CASES if name.startswith("columns")},
    "columns bf16 K8 batch": {"div.s64": (8, _DIVISION)},
}
"""PTX that no size here can execute: part of the instruction, how many at most, and why."""


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check_traffic(name: str, report, floor: int, sector_floor: int | None = None) -> None:
    """Bytes to and from DRAM and between the caches, against the fewest that this form of the kernel can do with."""
    traffic = report.traffic
    dram = (traffic.dram_read + traffic.dram_written) / floor
    sectors = traffic.sector_bytes / (sector_floor or floor)
    requests = traffic.request_bytes / (sector_floor or floor)
    print(f"simulated, times the floor: DRAM {dram:.3f}, sectors {sectors:.3f}, requests {requests:.3f}")
    worst = max(traffic.sites.values(), key=lambda site: 32 * site.sectors - site.bytes)
    assert dram <= DRAM_LIMIT, f"DRAM {dram:.3f} times the floor"
    assert sectors <= SECTOR_LIMIT, f"sectors {sectors:.3f} times the floor"
    limit, _ = REQUEST_LIMITS.get(name, (SECTOR_LIMIT, ""))
    assert requests <= limit, f"requests {requests:.3f} times the floor, most lost in: {worst.text}"
    assert requests > SECTOR_LIMIT or name not in REQUEST_LIMITS, f"the exception for {name!r} is stale"


PARAMETERS = [pytest.param(name, arch, id=f"{name} sm_{arch}") for name in CASES for arch in ARCHS]


def of(function: str) -> pytest.MarkDecorator:
    """The cases of one kernel, on the architectures that are simulated."""
    chosen = [p for p in PARAMETERS if CASES[p.values[0]].kernel.__name__ == function]
    return pytest.mark.parametrize(("name", "arch"), chosen)


@of("ema_update")
def test_ema(name, arch, no_worse_than):
    run = Run(name, arch)
    constants = run.case.constants
    student_dtype = TORCH[constants["STUDENT"].name]
    shadow_dtype = None if constants["SHADOW"] is None else TORCH[constants["SHADOW"].name]
    for seed, (sizes, decay) in enumerate([([5000, 3, 1024], 0.9), ([16384], 0.25)]):
        device = Device()
        aligned = constants["ALIGNED"]
        teachers = [noise(size, seed=seed) for size in sizes]
        students = [noise(size, seed=seed + 9).to(student_dtype) for size in sizes]
        teacher = [device.put(t, f"teacher{i}", offset=0 if aligned else 4) for i, t in enumerate(teachers)]
        student = [
            device.put(s, f"student{i}", offset=0 if aligned else s.element_size()) for i, s in enumerate(students)
        ]
        shadow = []
        if shadow_dtype is not None:
            shadow = [device.empty(t.shape, shadow_dtype, f"shadow{i}") for i, t in enumerate(teachers)]
        addresses = [[b.address for b in row] for row in zip(teacher, student, shadow or teacher, strict=True)]
        table = torch.tensor([[*row, size] for row, size in zip(addresses, sizes, strict=True)])
        number = torch.tensor([decay], dtype=torch.float64)
        report = run(device, (len(sizes),), table=device.put(table, "table"), decay=device.put(number, "decay"))
        torchs, exact = [t.clone() for t in teachers], [t.double() for t in teachers]
        reference.ema_update_(torchs, students, decay)
        reference.ema_update_(exact, [s.double() for s in students], decay)
        for i, buffer in enumerate(teacher):
            ours = device.get(buffer)
            no_worse_than(ours, torchs[i], exact[i])
            if shadow_dtype is not None:
                assert torch.equal(device.get(shadow[i]), ours.to(shadow_dtype))
    bytes_each = 8 + student_dtype.itemsize + (shadow_dtype.itemsize if shadow_dtype else 0)
    if aligned:
        check_traffic(name, report, 16384 * bytes_each)
    run.coverage.check(ALLOWED.get(name, {}))


def loss_inputs(run: Run, count: int, channels: int, dtype: torch.dtype, device: Device, *, offset: int = 0):
    """pred [positions, C], target [M, C], rows or None, each on the device too."""
    positions = count + 3 if "rows" in run.case.arguments else count
    rows = torch.randperm(positions, generator=torch.Generator().manual_seed(1))[:count] if positions > count else None
    pred, target = noise(positions, channels, dtype=dtype), noise(count, channels, seed=1)
    values = {"pred": device.put(pred, "pred", offset=offset), "target": device.put(target, "target", offset=offset)}
    if rows is not None:
        values["rows"] = device.put(rows, "rows")
    return pred, target, rows, values


@of("smooth_l1_forward")
def test_loss_and_gradient(name, arch, no_worse_than):
    run = Run(name, arch)
    dtype = TORCH[run.case.arguments["pred"].removeprefix("*")]
    squared, odd = run.case.constants["SQUARED"], "channels" not in run.case.divisible
    beta, scale, factor = 0.0 if squared else 0.7, 0.5, 0.3
    for count, channels in [(5, 333), (3, 7), (2, 0)] if odd else [(3, 272), (2, 16), (2, 0), (16, 768)]:
        device = Device()
        pred, target, rows, values = loss_inputs(run, count, channels, dtype, device)
        values["losses"] = device.empty((count,), torch.float32, "losses")
        if "gradient" in run.case.arguments:
            values["gradient"] = device.put(torch.zeros_like(pred), "gradient")
        inverse = launch.clamped_inverse(beta)
        numbers = {"channels": channels, "beta": beta, "inverse_beta": inverse, "scale": scale, "factor": factor}
        report = run(device, (count,), **values, **numbers)

        def by_torch(dtype: torch.dtype, wide: torch.dtype, pred=pred, target=target, rows=rows):
            leaf = pred.detach().to(dtype, copy=True).requires_grad_()
            chosen = leaf if rows is None else leaf[rows]
            options = {"beta": beta, "reduction": "none"}
            losses = reference.masked_smooth_l1(chosen, target.to(wide), scale=scale, **options).detach()
            reduced = reference.masked_smooth_l1(chosen, target.to(wide), scale=factor, **options).sum()
            reduced.backward()
            return losses, leaf.grad / 2 if squared else leaf.grad

        torchs, exact = by_torch(dtype, torch.float32), by_torch(torch.float64, torch.float64)
        no_worse_than(device.get(values["losses"]), torchs[0], exact[0])
        if "gradient" in values:
            no_worse_than(device.get(values["gradient"]), torchs[1], exact[1])
    if not odd:
        each = dtype.itemsize * (2 if "gradient" in values else 1) + 4
        check_traffic(name, report, count * (channels * each + 4 + 8 * (rows is not None)))
    run.coverage.check(ALLOWED.get(name, {}))


@of("smooth_l1_backward")
def test_backward_of_the_loss(name, arch, no_worse_than):
    run = Run(name, arch)
    dtype = TORCH[run.case.arguments["gradient"].removeprefix("*")]
    for count, channels in [(3, 272), (2, 16), (2, 0), (16, 768)]:
        device = Device()
        gradient, _, rows, values = loss_inputs(run, count, channels, dtype, device)
        del values["target"]
        values["gradient"] = values.pop("pred")
        incoming = noise(count if run.case.constants["PER_ROW"] else 1, seed=2)
        values["incoming"] = device.put(incoming, "incoming")
        values["out"] = device.put(torch.zeros_like(gradient), "out")
        report = run(device, (count,), **values, channels=channels, factor=0.3)
        exact = torch.zeros_like(gradient, dtype=torch.float64)
        chosen = slice(None) if rows is None else rows
        exact[chosen] = gradient.double()[chosen] * incoming.double()[:, None] * 0.3
        no_worse_than(device.get(values["out"]), exact.to(dtype), exact)
    check_traffic(name, report, count * (channels * 2 * dtype.itemsize + 8 * (rows is not None)))
    run.coverage.check(ALLOWED.get(name, {}))


class Layers:
    """K layers [B, T, C] on the device, with rows and lengths where the case has them."""

    def __init__(self, run: Run, batch: int, frames: int, channels: int, count: int | None = None) -> None:
        kinds = run.case.arguments["layers"]
        self.dtype, self.shape = TORCH[kinds[0].removeprefix("*")], (batch, frames, channels)
        self.device = Device(1 << 23)
        self.layers = [noise(*self.shape, seed=k, dtype=self.dtype) + k % 3 for k in range(len(kinds))]
        self.lengths = (
            torch.tensor([frames, *range(frames - 2, 0, -3)][:batch]) if "lengths" in run.case.arguments else None
        )
        self.rows = None
        self.values = {"layers": tuple(self.device.put(x, f"layer{k}") for k, x in enumerate(self.layers))}
        self.values |= {"frames": frames, "channels": channels, "sample_stride": frames * channels, "eps": 1e-5}
        self.values["frame_stride"] = channels
        if "lengths" in run.case.arguments:
            self.lengths = torch.tensor([frames, *range(frames - 2, 0, -3)][:batch])
            self.values["lengths"] = self.device.put(self.lengths, "lengths")
        if "rows" in run.case.arguments:
            every = torch.randperm(batch * frames, generator=torch.Generator().manual_seed(3))
            self.rows = every[:count].sort().values
            self.values["rows"] = self.device.put(self.rows, "rows")
        self.count = batch * frames if self.rows is None else len(self.rows)

    def statistics(self, *, instance: bool) -> tuple[Tensor, Tensor]:
        """float64 mean and sum of squares [K, B, C], or [K, 1, C] for all samples together."""
        x = torch.stack(self.layers).double()
        mask = torch.ones(self.shape[:2], dtype=torch.bool)
        if self.lengths is not None:
            mask = torch.arange(self.shape[1]) < self.lengths[:, None]
        mask, dims = mask[None, :, :, None], (2,) if instance else (1, 2)
        counts = mask.sum(dims, keepdim=True)
        mean = (x * mask).sum(dims, keepdim=True) / counts
        squares = ((x - mean) ** 2 * mask).sum(dims, keepdim=True)
        shape = (len(self.layers), -1, self.shape[2])
        self.variance = (squares / counts).reshape(shape)
        return mean.reshape(shape), squares.reshape(shape)

    def check(self, out, no_worse_than, **norms) -> None:
        options = {"rows": self.rows, "lengths": self.lengths, **norms}
        exact = reference.layer_targets([x.double() for x in self.layers], **options)
        no_worse_than(self.device.get(out), reference.layer_targets(self.layers, **options), exact)


@of("row_targets")
def test_targets_by_rows(name, arch, no_worse_than):
    run = Run(name, arch)
    norms = {key.lower(): "layer" if run.case.constants[key] else None for key in ("LAYER_NORM", "FINAL_NORM")}
    for batch, frames, channels, count in [(3, 9, 1024, 9), (2, 5, 48, 4), (2, 9, 768, 12)]:
        data = Layers(run, batch, frames, channels, count)
        out = data.device.empty((data.count, channels), torch.float32, "out")
        report = run(data.device, (data.count,), **data.values, out=out)
        data.check(out, no_worse_than, **norms)
    if data.lengths is None:
        each = len(data.layers) * data.dtype.itemsize + 4
        check_traffic(name, report, data.count * (channels * each + 8))
    run.coverage.check(ALLOWED.get(name, {}))


@of("column_statistics")
def test_statistics_of_columns(name, arch):
    run = Run(name, arch)
    instance = run.case.constants["INSTANCE"]
    tile = launch.statistics_tile()
    for batch, frames, channels in [(2, 5, 80), (2, 77, 16), (2, 97, 128)]:
        data = Layers(run, batch, frames, channels)
        shape = len(data.layers), batch, channels
        means, scales = (data.device.empty(shape, torch.float32, name) for name in ("means", "scales"))
        grid = launch.cells(channels, tile.channels), batch, len(data.layers)
        report = run(data.device, grid, **data.values, means=means, scales=scales)
        mean, squares = data.statistics(instance=True)
        expected = torch.rsqrt(data.variance + 1e-5) if instance else squares
        torch.testing.assert_close(data.device.get(means).double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(data.device.get(scales).double(), expected, rtol=2e-6, atol=1e-6)
    if data.lengths is None:
        read = data.layers[0].numel() * len(data.layers) * data.dtype.itemsize
        check_traffic(name, report, read + 8 * means.bytes // 4)
    run.coverage.check(ALLOWED.get(name, {}))


@of("merge_samples")
def test_merging_of_samples(name, arch):
    run = Run(name, arch)
    for layers, batch, channels in [(2, 1, 16), (2, 5, 144), (3, 4, 256)]:
        device = Device()
        x = noise(layers, batch, 20, channels).double() + torch.arange(batch)[:, None, None]
        mean, squares = x.mean(2), (x - x.mean(2, keepdim=True)).square().sum(2)
        means, scales = device.put(mean.float(), "means"), device.put(squares.float(), "scales")
        grid = launch.cells(channels, launch.merge_tile().channels), layers
        sizes = {"batch": batch, "frames": 20, "channels": channels, "eps": 1e-5}
        report = run(device, grid, means=means, scales=scales, **sizes)
        expected = torch.rsqrt(x.var((1, 2), correction=0) + 1e-5)
        torch.testing.assert_close(device.get(means)[:, 0].double(), x.mean((1, 2)), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(device.get(scales)[:, 0].double(), expected, rtol=2e-6, atol=0)
    check_traffic(name, report, 2 * 4 * layers * channels * (batch + 1))
    run.coverage.check(ALLOWED.get(name, {}))


@of("column_targets")
def test_targets_by_columns(name, arch, no_worse_than):
    run = Run(name, arch)
    instance, final = run.case.constants["INSTANCE"], run.case.constants["FINAL_NORM"]
    norms = {"layer_norm": "instance" if instance else "batch", "final_norm": "layer" if final else None}
    rows, block = run.case.constants["ROWS"], run.case.constants["BLOCK"]
    sizes = (
        [(3, 23, 1024, 20), (2, 5, 48, 4), (2, 40, 768, 32)]
        if final
        else [(3, 23, 144, 40), (2, 5, 16, 3), (2, 50, 256, 64)]
    )
    for batch, frames, channels, count in sizes:
        data = Layers(run, batch, frames, channels, count)
        mean, _ = data.statistics(instance=instance)
        scale = torch.rsqrt(data.variance + 1e-5)
        stored = [x.float().expand(-1, batch, -1) for x in (mean, scale)]
        means, scales = (data.device.put(x, name) for x, name in zip(stored, ("means", "scales"), strict=True))
        out = data.device.empty((data.count, channels), torch.float32, "out")
        grid = launch.cells(data.count, rows), launch.cells(channels, block)
        numbers = {"means": means, "scales": scales, "out": out, "count": data.count, "batch": batch}
        report = run(data.device, grid, **data.values, **numbers)
        data.check(out, no_worse_than, **norms)
    if data.lengths is None and data.rows is not None:
        number = len(data.layers)
        moved = data.count * (channels * (number * data.dtype.itemsize + 4) + 8)
        statistics = 8 * number * channels
        visits = sum(len((part // frames).unique()) if instance else 1 for part in data.rows.split(rows))
        check_traffic(name, report, moved + statistics * (batch if instance else 1), moved + statistics * visits)
    run.coverage.check(ALLOWED.get(name, {}))


def test_a_chunk_that_is_one_too_long_is_found():
    run, device = Run("ema f32", 90), Device()
    teacher, student = (device.put(noise(1030, seed=i), name) for i, name in enumerate(("teacher", "student")))
    table = device.put(torch.tensor([[teacher.address, student.address, 0, 1031]]), "table")
    decay = device.put(torch.tensor([0.9], dtype=torch.float64), "decay")
    with pytest.raises(Fault, match=r"out of bounds.*byte 4120 of buffer 'teacher'.*\[PTX line \d+: .*ld\.global"):
        run(device, (1,), table=table, decay=decay)


def test_a_barrier_dropped_from_the_real_ptx_is_found():
    name, found = "statistics bf16 K8", []
    text = compile_offline.compile_case(name, 90).asm["ptx"]
    pieces = re.split(r"bar\.sync\s+0;", text)
    for at in range(1, len(pieces)):
        run = Run(name, 90)
        without = "bar.sync 0;".join([*pieces[: at - 1], pieces[at - 1] + pieces[at], *pieces[at + 1 :]])
        (run.kernel,) = parse(without).values()
        run.coverage = Coverage(run.kernel)
        data = Layers(run, 1, 97, 64)
        means, scales = (data.device.empty((8, 1, 64), torch.float32, name) for name in ("means", "scales"))
        try:
            run(data.device, (1, 1, 8), **data.values, means=means, scales=scales)
        except Race as race:
            found.append(str(race))
    assert len(pieces) > 1
    assert len(found) == len(pieces) - 1, found
