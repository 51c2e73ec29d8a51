"""Faults planted in what Triton makes of the kernels, or in their source: the simulator finds each of them."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for Linux on x86-64)")

import triton
import triton.language as tl
from compile_offline import CASES, Case
from ptx import Fault, Race
from simulated import Device, Run, noise, ptx_of
from simulated_checks import check
from simulated_inputs import Layers

from d2v_fast import reference


def statistics(run: Run):
    data = Layers(run, 1, 97, 64)
    means, scales = (data.device.empty((8, 1, 64), torch.float32, name) for name in ("means", "scales"))
    run(data.device, (1, 1, 8), **data.values, means=means, scales=scales)
    return data.device.get(means).double(), data.statistics(instance=True)[0]


def test_every_dropped_barrier_is_found():
    name = "statistics bf16 K8"
    text = ptx_of(name, 90)
    places = [*re.finditer(r"bar\.sync\s+0;", text)]
    assert places
    for place in places:
        before, after = text[: place.start()], text[place.end() :]
        with pytest.raises(Race, match="shared memory"):
            statistics(Run(name, 90, text=before + after))


@pytest.mark.parametrize(("distance", "other"), [(1, 2), (2, 1), (4, 2), (8, 4), (16, 8)])
def test_every_swapped_lane_is_found(distance, other):
    name = "forward f32"
    text = ptx_of(name, 90)
    right = re.compile(rf"(shfl\.sync\.bfly\.b32\s+[^,]+,[^,]+, ){distance}(,)")
    assert len(right.findall(text)) == 1
    run, device = Run(name, 90, text=right.sub(rf"\g<1>{other}\2", text)), Device()
    pred, target = noise(3, 768), noise(3, 768, seed=1)
    values = {"pred": device.put(pred, "pred"), "target": device.put(target, "target")}
    values |= {
        "losses": device.empty((3,), torch.float32, "losses"),
        "gradient": device.empty(pred.shape, pred.dtype, "g"),
    }
    run(device, (3,), **values, channels=768, beta=1.0, inverse_beta=1.0, scale=1.0, factor=1.0)
    expected = reference.masked_smooth_l1(pred, target, beta=1.0, reduction="none")
    assert not torch.allclose(device.get(values["losses"]), expected, rtol=1e-2)


def test_a_chunk_that_is_one_too_long_is_found():
    run, device = Run("ema f32", 90), Device()
    teacher, student = (device.put(noise(1030, seed=i), name) for i, name in enumerate(("teacher", "student")))
    table = device.put(torch.tensor([[teacher.address, student.address, 0, 1031]]), "table")
    decay = device.put(torch.tensor([0.9], dtype=torch.float64), "decay")
    with pytest.raises(Fault, match=r"out of bounds.*byte 4120 of buffer 'teacher'.*\[PTX line \d+: .*ld\.global"):
        run(device, (1,), table=table, decay=decay)


@triton.jit
def last_block(x: tl.tensor, partial: tl.tensor, ticket: tl.tensor, out: tl.tensor, SEM: tl.constexpr) -> None:
    """The sum of every program's number, by the program that comes last: right only if the ticket is a fence."""
    program = tl.program_id(0)
    tl.store(partial + program, tl.load(x + program) * 2)
    if tl.atomic_add(ticket, 1, sem=SEM) == tl.num_programs(0) - 1:
        tl.store(out, tl.sum(tl.load(partial + tl.arange(0, 4)), 0))


def test_a_lost_fence_is_found():
    # The project's own kernels exchange nothing between programs, so there is none to lose in them.
    executed = [name for name, case in CASES.items() if case.simulated_for == 90]
    assert not any(re.search(r"\b(atom|red|membar|fence)\.", ptx_of(name, 90)) for name in executed)
    for sem in ("acq_rel", "relaxed"):
        arguments = {"x": "*fp32", "partial": "*fp32", "ticket": "*i32", "out": "*fp32"}
        run, device = Run(Case(last_block, arguments, {"SEM": sem}, 1), 90), Device()
        values = {"x": device.put(torch.arange(4.0), "x"), "partial": device.empty((4,), torch.float32, "partial")}
        values |= {"ticket": device.put(torch.zeros(1, dtype=torch.int32), "ticket")}
        values |= {"out": device.empty((1,), torch.float32, "out")}
        if sem == "acq_rel":
            run(device, (4,), **values)
            assert device.get(values["out"]) == 12
        else:
            with pytest.raises(Race, match=r"buffer 'partial'.*ld\.global"):
                run(device, (4,), **values)


# A few faults in each kernel of data2vec 2.0: the case, what is changed in its PTX, and how many of these are (0: all).
SECOND = {
    "a wait for copies": ("attend f32", r"cp\.async\.wait_group\s+\d+;", "", 1),
    "the bound of the places": ("restore bf16", r"setp\.lt\.s64", "setp.le.s64", 0),
    "half of a row's sum": ("finish bf16 alone", r"(shfl\.sync\.bfly\.b32\s+[^,]+,[^,]+, )16,", r"\g<1>8,", 1),
    "rounding toward zero": ("unfinish bf16", r"cvt\.rn\.bf16x2\.f32", "cvt.rz.bf16x2.f32", 0),
}


@pytest.mark.parametrize("name", SECOND)
def test_faults_of_the_kernels_of_views_are_found(name, no_worse_than):
    case, right, wrong, count = SECOND[name]
    arch = CASES[case].simulated_for
    changed, made = re.subn(right, wrong, ptx_of(case, arch), count=count)
    assert made >= max(count, 1)
    with pytest.raises((AssertionError, Fault)):
        check(Run(case, arch, text=changed), no_worse_than)
