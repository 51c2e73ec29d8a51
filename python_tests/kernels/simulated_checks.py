"""One check for each kernel: a run of it on all sizes that a fault could hide from, compared with float64.

The sizes are chosen by planted faults (test_simulated_mutants.py): for each bound of a kernel one size that ends just
there, in the last row of a buffer, so that an access beyond it is out of bounds.
"""

from __future__ import annotations

from collections.abc import Callable

import simulated_adamw
import simulated_attention
import simulated_decoder
import simulated_large
import simulated_norm_gelu
import torch
from d2v_fast.kernels import launch
from rounding import check_moved_from_the_nearer_end, check_rounded
from simulated import TORCH, Device, Run, noise
from simulated_inputs import Layers, Moved, NoWorse, loss_inputs

from d2v_fast import reference

# Each remainder of a thread's four elements, and an end in each quarter of a block: misaligned ones are read that way.
EMA = [([5000, 3, 1024, 1021, 1022], 0.999), ([301, 602], 0.001), ([16384], 0.25)]


def ema(run: Run, no_worse_than: NoWorse) -> Moved:
    constants = run.case.constants
    student_dtype = TORCH[constants["STUDENT"].name]
    shadow_dtype = None if constants["SHADOW"] is None else TORCH[constants["SHADOW"].name]
    for seed, (sizes, decay) in enumerate(EMA):
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
            check_moved_from_the_nearer_end(ours, teachers[i], students[i], decay)
            if shadow_dtype is not None:
                assert torch.equal(device.get(shadow[i]), ours.to(shadow_dtype))
    each = 8 + student_dtype.itemsize + (shadow_dtype.itemsize if shadow_dtype else 0)
    return Moved(report, 16384 * each)


# A row is gone through 256 channels at a time, in two halves: none of the second half, a part of it, all of it.
LOSS = [(2, 224), (3, 272), (2, 16), (2, 0), (2, 384), (2, 640), (16, 768)]
# The same for numbers that no vector can hold, with an end in each 32 of the 256 channels.
ODD_LOSS = [(5, 333), (3, 7), (2, 0), (1, 300), (1, 363), (1, 385), (1, 423), (1, 493), (2, 223)]


def loss(run: Run, no_worse_than: NoWorse) -> Moved:
    squared, odd = run.case.constants["SQUARED"], "channels" not in run.case.divisible
    beta, scale, factor = 0.0 if squared else 0.7, 0.5, 0.3
    for count, channels in ODD_LOSS if odd else LOSS:
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
            check_rounded(device.get(values["gradient"]), exact[1])
    each = pred.itemsize * (2 if "gradient" in values else 1) + target.itemsize
    return Moved(report, count * (channels * each + 4 + 8 * (rows is not None)))


# A row is gone through 1024 channels at a time, and a warp holds them in pieces of 128 or 256: an end in each of these.
GRADIENT = [(2, 16), (2, 0), *[(1, channels) for channels in range(144, 1024, 128)], (1, 1040), (16, 768)]


def gradient(run: Run, no_worse_than: NoWorse) -> Moved:
    for count, channels in GRADIENT:
        device = Device()
        given, _, rows, values = loss_inputs(run, count, channels, device)
        del values["target"]
        values["gradient"] = values.pop("pred")
        incoming = noise(count if run.case.constants["PER_ROW"] else 1, seed=2)
        values["incoming"] = device.put(incoming, "incoming")
        values["out"] = device.put(torch.zeros_like(given), "out")
        report = run(device, (count,), **values, channels=channels, factor=0.3)
        exact = torch.zeros_like(given, dtype=torch.float64)
        chosen = slice(None) if rows is None else rows
        exact[chosen] = given.double()[chosen] * incoming.double()[:, None] * 0.3
        no_worse_than(device.get(values["out"]), exact.to(given.dtype), exact)
        check_rounded(device.get(values["out"]), exact, part=512)
    numbers = 4 * len(incoming) + 8 * count * (rows is not None)
    return Moved(report, count * channels * 2 * given.itemsize + numbers)


# Batch, frames, channels, rows. A warp holds a row in pieces of 128 or 256 channels: an end in each of them.
ROWS = [(1, 2, channels, 2) for channels in (144, 256, 400, 512, 640, 912)] + [
    (3, 9, 1024, 9),
    (2, 5, 48, 9),
    (2, 9, 768, 12),
]


def targets_by_rows(run: Run, no_worse_than: NoWorse) -> Moved:
    norms = {key.lower(): "layer" if run.case.constants[key] else None for key in ("LAYER_NORM", "FINAL_NORM")}
    for batch, frames, channels, count in ROWS:
        data = Layers(run, batch, frames, channels, count)
        out = data.device.empty((data.count, channels), torch.float32, "out")
        report = run(data.device, (data.count,), **data.values, out=out)
        data.check(out, no_worse_than, **norms)
    # Each row is a block, which looks up its number and its length.
    looked_up = data.targets_bytes + (8 * data.count if data.lengths is not None else 0)
    return Moved(report, data.targets_bytes, looked_up)


# Batch, frames, channels. A tile is 32 frames of 64 channels: of a single sample its last row is the buffer's end, for
# each part of a tile that a thread holds.
STATISTICS = [(1, 40, 80), (1, 8, 80), (1, 16, 80), (1, 24, 80), (1, 48, 80), (2, 5, 80), (2, 77, 16), (2, 97, 128)]


def statistics(run: Run, no_worse_than: NoWorse) -> Moved:
    instance = run.case.constants["INSTANCE"]
    tile = launch.statistics_tile()
    for batch, frames, channels in STATISTICS:
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
    return Moved(report, floor)


# Layers, batch, channels.
MERGE = [(2, 1, 16), (1, 2, 144), (2, 5, 144), (3, 4, 256)]


def merge(run: Run, no_worse_than: NoWorse) -> Moved:
    for layers, batch, channels in MERGE:
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
    return Moved(report, floor + (8 * batch if given else 0), floor + looked_up)


# Batch, frames, channels, rows: an end in each part of a tile, and tiles with one row of another sample.
WHOLE_ROWS = [
    (3, 23, 1024, 20),
    (2, 5, 48, 9),
    (1, 1, 48, 1),
    (1, 9, 64, 9),
    (2, 7, 64, 9),
    (1, 11, 400, 10),
    (1, 20, 640, 19),
    (1, 15, 64, 13),
    (1, 15, 64, 14),
    (1, 15, 64, 15),
    (2, 40, 768, 32),
]
PARTS_OF_ROWS = [
    (3, 23, 144, 40),
    (2, 5, 16, 3),
    (1, 1, 16, 1),
    (1, 20, 96, 19),
    (1, 30, 96, 27),
    (1, 40, 64, 33),
    (2, 25, 80, 34),
    (2, 33, 96, 66),
    (1, 12, 96, 11),
    (2, 7, 64, 14),
    (3, 12, 64, 36),
    (2, 50, 256, 64),
]


def targets_by_columns(run: Run, no_worse_than: NoWorse) -> Moved:
    instance, final = run.case.constants["INSTANCE"], run.case.constants["FINAL_NORM"]
    norms = {"layer_norm": "instance" if instance else "batch", "final_norm": "layer" if final else None}
    rows, block = run.case.constants["ROWS"], run.case.constants["BLOCK"]
    for batch, frames, channels, count in WHOLE_ROWS if final else PARTS_OF_ROWS:
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
    return Moved(report, data.targets_bytes + statistics * (batch if instance else 1), looked_up, by_warps)


CHECKS: dict[str, Callable[[Run, NoWorse], Moved]] = {
    "ema_update": ema,
    "smooth_l1_forward": loss,
    "smooth_l1_backward": gradient,
    "row_targets": targets_by_rows,
    "column_statistics": statistics,
    "merge_samples": merge,
    "column_targets": targets_by_columns,
    **simulated_adamw.CHECKS,
    **simulated_decoder.CHECKS,
    **simulated_norm_gelu.CHECKS,
    **simulated_attention.CHECKS,
}
"""By the name of the kernel's function."""


def check(run: Run, no_worse_than: NoWorse) -> Moved:
    """All sizes of a case; targets also from samples and frames so far apart that no index of 32 bits reaches them."""
    function, constants = run.case.kernel.__name__, run.case.constants
    moved = CHECKS[function](run, no_worse_than)
    if function in ("row_targets", "column_targets"):
        norm = ("instance" if constants["INSTANCE"] else "batch") if function == "column_targets" else None
        norm = "layer" if constants.get("LAYER_NORM") else norm
        final = "layer" if constants["FINAL_NORM"] else None
        simulated_large.check_targets(run, no_worse_than, layer_norm=norm, final_norm=final)
    return moved
