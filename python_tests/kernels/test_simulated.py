"""The PTX that Triton really produces, executed in the simulator: results, races, addresses, coverage and traffic.

The traffic is compared with the limits of simulators/limits.py and with what docs/kernels.md says.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

import documented
import simulated_large
import triton
from compile_offline import CASES, FURTHER_CASES, case_named
from d2v_fast.kernels import launch
from limits import Ratios, check_traffic
from simulated import TORCH, Device, Run, noise, of
from simulated_inputs import Layers, loss_inputs

from d2v_fast import reference

_LOOP = "leaves out the loop over a tile's samples, but even the last tile has a row, so one sample at least"
_DIVISION = "positions of 2^32 and more, but without rows they are below `count`, which here is passed in 31 bits"
ALLOWED: dict[str, dict[str, tuple[int, str]]] = {
    name: {" bra $L": (1, _LOOP)}
    for name in [*CASES, *FURTHER_CASES]
    if name.startswith("columns") and case_named(name).constants["INSTANCE"]
}
ALLOWED["columns bf16 K1 all"]["div.s64"] = (8, _DIVISION)
"""PTX that no input can execute: part of the instruction, how many at most, and why."""


def compare_with_document(name: str, ratios: Ratios) -> None:
    if name in CASES:
        documented.check("triton", name, ratios.cells(), f"triton {triton.__version__}")


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
            offset = 0 if aligned else shadow_dtype.itemsize
            shadow = [device.empty(t.shape, shadow_dtype, f"shadow{i}", offset=offset) for i, t in enumerate(teachers)]
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
    if aligned:
        each = 8 + student_dtype.itemsize + (shadow_dtype.itemsize if shadow_dtype else 0)
        compare_with_document(name, check_traffic(report, 16384 * each))
    run.coverage.check({})


@of("smooth_l1_forward")
def test_loss_and_gradient(name, arch, no_worse_than):
    run = Run(name, arch)
    squared, odd = run.case.constants["SQUARED"], "channels" not in run.case.divisible
    beta, scale, factor = 0.0 if squared else 0.7, 0.5, 0.3
    for count, channels in [(5, 333), (3, 7), (2, 0)] if odd else [(3, 272), (2, 16), (2, 0), (16, 768)]:
        device = Device()
        pred, target, rows, values = loss_inputs(run, count, channels, device)
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

        torchs, exact = by_torch(pred.dtype, torch.float32), by_torch(torch.float64, torch.float64)
        no_worse_than(device.get(values["losses"]), torchs[0], exact[0])
        if "gradient" in values:
            no_worse_than(device.get(values["gradient"]), torchs[1], exact[1])
    if not odd:
        each = pred.itemsize * (2 if "gradient" in values else 1) + target.itemsize
        floor = count * (channels * each + 4 + 8 * (rows is not None))
        compare_with_document(name, check_traffic(report, floor))
    run.coverage.check({})


@of("smooth_l1_backward")
def test_backward_of_the_loss(name, arch, no_worse_than):
    run = Run(name, arch)
    for count, channels in [(3, 272), (2, 16), (2, 0), (16, 768)]:
        device = Device()
        gradient, _, rows, values = loss_inputs(run, count, channels, device)
        del values["target"]
        values["gradient"] = values.pop("pred")
        incoming = noise(count if run.case.constants["PER_ROW"] else 1, seed=2)
        values["incoming"] = device.put(incoming, "incoming")
        values["out"] = device.put(torch.zeros_like(gradient), "out")
        report = run(device, (count,), **values, channels=channels, factor=0.3)
        exact = torch.zeros_like(gradient, dtype=torch.float64)
        chosen = slice(None) if rows is None else rows
        exact[chosen] = gradient.double()[chosen] * incoming.double()[:, None] * 0.3
        no_worse_than(device.get(values["out"]), exact.to(gradient.dtype), exact)
    numbers = 4 * len(incoming) + 8 * count * (rows is not None)
    compare_with_document(name, check_traffic(report, count * channels * 2 * gradient.itemsize + numbers))
    run.coverage.check({})


@of("row_targets")
def test_targets_by_rows(name, arch, no_worse_than):
    run = Run(name, arch)
    norms = {key.lower(): "layer" if run.case.constants[key] else None for key in ("LAYER_NORM", "FINAL_NORM")}
    for batch, frames, channels, count in [(3, 9, 1024, 9), (2, 5, 48, 4), (2, 9, 768, 12)]:
        data = Layers(run, batch, frames, channels, count)
        out = data.device.empty((data.count, channels), torch.float32, "out")
        report = run(data.device, (data.count,), **data.values, out=out)
        data.check(out, no_worse_than, **norms)
    # Each row is a block, which looks up its number and its length.
    looked_up = data.targets_bytes + (8 * data.count if data.lengths is not None else 0)
    compare_with_document(name, check_traffic(report, data.targets_bytes, looked_up))
    simulated_large.check_targets(run, no_worse_than, **norms)
    run.coverage.check({})


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
        mean, squares, variance = data.statistics(instance=True)
        expected = torch.rsqrt(variance + 1e-5) if instance else squares
        torch.testing.assert_close(data.device.get(means).double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(data.device.get(scales).double(), expected, rtol=2e-6, atol=1e-6)
    floor = int(data.counts.sum()) * data.frame_bytes + 2 * means.bytes + (0 if data.lengths is None else 8 * batch)
    compare_with_document(name, check_traffic(report, floor))
    run.coverage.check({})


@of("merge_samples")
def test_merging_of_samples(name, arch):
    run = Run(name, arch)
    for layers, batch, channels in [(2, 1, 16), (2, 5, 144), (3, 4, 256)]:
        device = Device()
        lengths = torch.arange(20, 20 - batch, -1) if "lengths" in run.case.arguments else torch.full((batch,), 20)
        given = {"lengths": device.put(lengths, "lengths")} if "lengths" in run.case.arguments else {}
        x = noise(layers, batch, 20, channels).double() + torch.arange(batch)[:, None, None]
        valid = [x[:, b, :n] for b, n in enumerate(lengths.tolist())]
        mean = torch.stack([part.mean(1) for part in valid], 1)
        squares = torch.stack([part.var(1, correction=0) * part.shape[1] for part in valid], 1)
        means, scales = device.put(mean.float(), "means"), device.put(squares.float(), "scales")
        grid = launch.cells(channels, launch.merge_tile().channels), layers
        sizes = {"batch": batch, "frames": 20, "channels": channels, "eps": 1e-5}
        report = run(device, grid, means=means, scales=scales, **sizes, **given)
        every = torch.cat(valid, 1)
        expected = torch.rsqrt(every.var(1, correction=0) + 1e-5)
        torch.testing.assert_close(device.get(means)[:, 0].double(), every.mean(1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(device.get(scales)[:, 0].double(), expected, rtol=2e-6, atol=0)
    blocks = grid[0] * grid[1]
    floor, looked_up = 2 * 4 * layers * channels * (batch + 1), 32 * batch * blocks if given else 0
    compare_with_document(name, check_traffic(report, floor + (8 * batch if given else 0), floor + looked_up))
    run.coverage.check({})


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
        mean, _, variance = data.statistics(instance=instance)
        stored = [x.float().expand(-1, batch, -1) for x in (mean, torch.rsqrt(variance + 1e-5))]
        means, scales = (data.device.put(x, name) for x, name in zip(stored, ("means", "scales"), strict=True))
        out = data.device.empty((data.count, channels), torch.float32, "out")
        grid = launch.cells(data.count, rows), launch.cells(channels, block)
        numbers = {"means": means, "scales": scales, "out": out, "count": data.count, "batch": batch}
        report = run(data.device, grid, **data.values, **numbers)
        data.check(out, no_worse_than, **norms)
    # A tile reads the statistics once for each sample that its rows span; without a final norm each warp does.
    statistics = 8 * len(data.layers) * channels
    position = torch.arange(data.count) if data.rows is None else data.rows
    spans = [part[[0, -1]] // frames for part in position.split(rows)]
    visits = sum(int(last - first) + 1 if instance else 1 for first, last in spans)
    looked_up = data.targets_bytes + statistics * visits
    if data.rows is not None:  # each tile of channels reads the numbers of its rows, at most one to a sector
        looked_up += 8 * data.count * (grid[1] - 1)
    by_warps = looked_up + (0 if final else statistics * visits * (run.case.warps - 1))
    floor = data.targets_bytes + statistics * (batch if instance else 1)
    compare_with_document(name, check_traffic(report, floor, looked_up, by_warps))
    simulated_large.check_targets(run, no_worse_than, **norms)
    run.coverage.check(ALLOWED.get(name, {}))
