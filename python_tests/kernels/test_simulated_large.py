"""64-bit indexing: kernels on tensors of more than 2^32 elements, in the simulator's sparse memory."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

from compile_offline import Case, case_named
from d2v_fast.kernels import layer_targets
from ptx import Fault
from simulated import TORCH, Run, noise
from simulated_large import CHANNELS, LAST_BLOCKS, FarDevice, check_targets

from d2v_fast import reference

ARCHS = [pytest.param(arch, marks=() if arch == 90 else pytest.mark.long) for arch in (80, 90, 100)]


def with_sizes_of_64_bits(case: Case) -> Case:
    """As the launcher specialises the kernel for sizes and strides of 2^31 and more."""
    return dataclasses.replace(case, arguments={k: "i64" if v == "i32" else v for k, v in case.arguments.items()})


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    "name",
    [
        "rows f32 K10",
        "columns f32 K8 lengths",
        pytest.param("columns bf16 K8", marks=pytest.mark.long),
        pytest.param("columns bf16 K10 final", marks=pytest.mark.long),
    ],
)
def test_targets_with_strides_beyond_31_bits(name, arch, no_worse_than):
    case = with_sizes_of_64_bits(case_named(name))
    norm = "instance" if name.startswith("columns") else "layer"
    check_targets(Run(case, arch), no_worse_than, layer_norm=norm, final_norm="layer" if "final" in name else None)


@pytest.mark.parametrize("name", ["statistics bf16 K8", "statistics f32 K8 lengths"])
def test_statistics_of_frames_far_apart(name):
    run, device = Run(name, 90), FarDevice()
    kinds = run.case.arguments["layers"]
    dtype, shape = TORCH[kinds[0].removeprefix("*")], (3, 37)
    frame_stride, sample_stride = 1 << 27, (1 << 31) - 16
    x = noise(len(kinds), *shape, CHANNELS, dtype=dtype)
    extent = 2 * sample_stride + 36 * frame_stride + CHANNELS
    assert extent > 1 << 32
    start = device.base(extent * dtype.itemsize + (len(kinds) << 20))
    for k in range(len(kinds)):
        for sample in range(shape[0]):
            for frame in range(shape[1]):
                at = (sample * sample_stride + frame * frame_stride) * dtype.itemsize
                device.put(x[k, sample, frame], f"layer{k} {sample} {frame}", at=start + (k << 20) + at)
    values = {"layers": tuple(start + (k << 20) for k in range(len(kinds))), "frames": 37, "channels": CHANNELS}
    values |= {"sample_stride": sample_stride, "frame_stride": frame_stride, "eps": 1e-5}
    lengths = torch.tensor([37, 36, 1] if "lengths" in name else [37] * 3)
    if "lengths" in name:
        values["lengths"] = device.put(lengths, "lengths")
    out = {key: device.empty((len(kinds), 3, CHANNELS), torch.float32, key) for key in ("means", "scales")}
    run(device, (1, 3, len(kinds)), **values, **out)
    for sample, count in enumerate(lengths.tolist()):
        valid = x[:, sample, :count].double()
        torch.testing.assert_close(device.get(out["means"])[:, sample].double(), valid.mean(1), rtol=1e-6, atol=1e-6)
        scale = torch.rsqrt(valid.var(1, correction=0) + 1e-5)
        torch.testing.assert_close(device.get(out["scales"])[:, sample].double(), scale, rtol=2e-6, atol=1e-6)


def loss_run(run: Run, positions: list[int] | None, first: int):
    """Five rows of the forward or backward kernel: the device, the tensors, and the buffers of the results."""
    forward, count, device = "pred" in run.case.arguments, 5, FarDevice()
    read = "pred" if forward else "gradient"
    dtype = TORCH[run.case.arguments[read].removeprefix("*")]
    given = noise(count, CHANNELS, dtype=dtype)
    at = [first + i for i in range(count)] if positions is None else positions
    bases = {name: device.base((at[-1] + 1) * CHANNELS * dtype.itemsize) for name in (read, "out")}
    buffers = []
    for i, position in enumerate(at):
        far = position * CHANNELS * dtype.itemsize
        device.put(given[i], f"{read} {position}", at=bases[read] + far)
        buffers.append(device.empty((CHANNELS,), dtype, f"out {position}", at=bases["out"] + far))
    values = {read: bases[read], "channels": CHANNELS, "factor": 0.3, "gradient" if forward else "out": bases["out"]}
    if not forward:
        values["gradient"] = bases[read]
    if positions is not None:
        values["rows"], _ = device.rows("rows", torch.tensor(positions), first)
    return device, given, values, buffers


FAR_POSITIONS = [7, 1 << 28, (1 << 31) + 1, 1 << 32, (1 << 32) + 9]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("name", "positions"), [("forward f32", None), ("forward bf16 squared rows", FAR_POSITIONS)])
def test_loss_and_gradient(name, positions, arch, no_worse_than):
    run = Run(name, arch)
    device, pred, values, gradients = loss_run(run, positions, LAST_BLOCKS)
    target = noise(5, CHANNELS, seed=1)
    values["target"], _ = device.rows("target", target, LAST_BLOCKS)
    values["losses"], losses = device.rows("losses", torch.empty(5, 1), LAST_BLOCKS, empty=True)
    beta = 0.0 if "squared" in name else 1.0
    run(device, (5,), first_block=LAST_BLOCKS, **values, beta=beta, inverse_beta=beta, scale=0.5)
    leaf = pred.double().requires_grad_()
    exact = reference.masked_smooth_l1(leaf, target.double(), beta=beta, scale=0.5, reduction="none")
    slope = torch.autograd.grad(exact.sum(), leaf)[0] * 0.6 / (2 if beta == 0 else 1)
    theirs = reference.masked_smooth_l1(pred, target, beta=beta, scale=0.5, reduction="none")
    no_worse_than(device.get(losses)[:, 0], theirs, exact.detach())
    no_worse_than(torch.stack([device.get(buffer) for buffer in gradients]), slope.to(pred.dtype), slope)


@pytest.mark.parametrize(("name", "positions"), [("backward f32", None), ("backward bf16 rows", FAR_POSITIONS)])
def test_backward(name, positions, no_worse_than):
    run = Run(name, 90)
    device, gradient, values, out = loss_run(run, positions, LAST_BLOCKS)
    incoming = torch.linspace(1, 2, 5 if run.case.constants["PER_ROW"] else 1)
    if run.case.constants["PER_ROW"]:
        values["incoming"], _ = device.rows("incoming", incoming[:, None], LAST_BLOCKS)
    else:
        values["incoming"] = device.put(incoming, "incoming")
    run(device, (5,), first_block=LAST_BLOCKS, **values)
    exact = gradient.double() * incoming.double()[:, None] * 0.3
    no_worse_than(torch.stack([device.get(buffer) for buffer in out]), exact.to(gradient.dtype), exact)


def test_ema_of_tensors_far_apart(no_worse_than):
    run, device = Run("ema bf16 shadow bf16", 90), FarDevice()
    teacher, student, table, out = noise(2, 3000), noise(2, 3000, seed=1).bfloat16(), [], []
    for i in range(2):
        (_, mean), (_, sample) = (device.rows(f"{x[0, 0]}{i}", x[i : i + 1], 1 << 22) for x in (teacher, student))
        _, shadow = device.rows(f"shadow{i}", student[i : i + 1], 1 << 22, empty=True)
        table.append([mean.address, sample.address, shadow.address, 3000])
        out.append((mean, shadow))
    assert abs(table[1][0] - table[0][0]) > 1 << 32
    decay = device.put(torch.tensor([0.9], dtype=torch.float64), "decay")
    run(device, (2,), table=device.put(torch.tensor(table), "table"), decay=decay)
    theirs, exact = [*teacher.clone()], [*teacher.double()]
    reference.ema_update_(theirs, [*student], 0.9)
    reference.ema_update_(exact, [*student.double()], 0.9)
    for i, (mean, shadow) in enumerate(out):
        no_worse_than(device.get(mean)[0], theirs[i], exact[i])
        assert torch.equal(device.get(shadow), device.get(mean).bfloat16())


def test_an_index_of_32_bits_is_found(tmp_path, no_worse_than):
    right = "row = tl.program_id(0).to(tl.int64)"
    source = Path(layer_targets.__file__).read_text()
    assert right in source, "plant the fault elsewhere"
    file = tmp_path / "narrow_layer_targets.py"
    file.write_text(source.replace(right, "row = tl.program_id(0)"))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    narrow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(narrow)
    case = dataclasses.replace(case_named("rows f32 K10"), kernel=narrow.row_targets)
    with pytest.raises(Fault, match=r"out of bounds in global memory.*st\.global"):
        check_targets(Run(case, 90), no_worse_than, layer_norm="layer", final_norm=None)
