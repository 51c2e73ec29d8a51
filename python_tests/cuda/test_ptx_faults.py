"""Faults planted in the PTX of the CUDA kernels, and indices beyond 2^32: the simulator sees both.

The kernels have no atomics, so no fence either; lost ones are planted in test_ptx_faults.py of the simulators.
"""

from __future__ import annotations

import re
import struct

import cuda_compiler
import numpy as np
import pytest
import torch
from cuda_cpu_build import ROOT
from ptx import Fault, Memory, Race, launch, parse
from ptx.memory import FAR, GLOBAL_BASE
from ptx_checks import entry

from d2v_fast import reference

pytestmark = pytest.mark.skipif(cuda_compiler.missing(90) is not None, reason=str(cuda_compiler.missing(90)))
THREADS, FRAMES, CHANNELS = 256, 150, 8
BARRIER = re.compile(r"bar\.sync\s+0;")


STAGED = "IfLb1ELb1E"


def run_targets(text: str, *, sample_stride: int, frame_stride: int, at: int | None = None, first: int = 0):
    """Two layers of two samples: (ours, exact). With `at` the frames stand at far addresses, else there are rows."""
    (kernel,) = parse(text).values()
    memory = Memory(1 << 20)
    x = torch.randn(2, 2, FRAMES, CHANNELS, generator=torch.Generator().manual_seed(0)) + 3
    addresses = []
    for k in range(2):
        if at is None:
            addresses.append(memory.put(x[k].numpy(), f"layer{k}").address)
            continue
        base = at + k * (1 << 20)
        addresses.append((base - first * sample_stride * 4) % (1 << 64))  # addresses are computed modulo 2^64
        for sample in range(2):
            for frame in range(FRAMES):
                far = base + 4 * (sample * sample_stride + frame * frame_stride)
                memory.put(x[k, sample, frame].numpy(), f"layer{k} {sample} {frame}", at=far)
    rows = torch.arange(0, 2 * FRAMES, 3 if at is None else 1)
    given = 0 if at is not None else memory.put(rows.numpy(), "rows").address
    far_out = None if at is None else GLOBAL_BASE + (1 << 39)
    out = memory.reserve((len(rows), CHANNELS), np.float32, "out", at=far_out)
    result = out.address - first * FRAMES * CHANNELS * 4
    strides = ([value] * 2 + [0] * 62 for value in (sample_stride, frame_stride))
    numbers = (
        *addresses,
        *[0] * 62,
        *next(strides),
        *next(strides),
        given,
        0,
        result,
        len(rows),
        2,
        FRAMES,
        CHANNELS,
        FRAMES,
    )
    argument = struct.pack("<64Q64q64qQQQqiiiif4x", *numbers, 1e-5)
    shared = FRAMES * (4 * CHANNELS + 4) + 32 * FRAMES
    launch(kernel, 2, THREADS, [argument], memory, shared_bytes=shared, first=first)
    exact = reference.layer_targets([*x.double()], rows)
    return torch.from_numpy(out.numpy()), exact


def run_plainly(text: str):
    return run_targets(text, sample_stride=FRAMES * CHANNELS, frame_stride=CHANNELS)


def test_right_kernels_pass_and_have_no_fences():
    ours, exact = run_plainly(entry("layer_targets.cu", STAGED))
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-5)
    for file in ("ema.cu", "layer_targets.cu"):
        for kernel in parse(cuda_compiler.ptx(ROOT / "csrc/cuda" / file, 90)).values():
            assert not {"atom", "red", "membar", "fence"} & {instruction.opcode for instruction in kernel.code}


def test_every_dropped_barrier_is_found():
    text = entry("layer_targets.cu", STAGED)
    places = [*BARRIER.finditer(text)]
    assert len(places) == 3
    for place in places:
        with pytest.raises(Race, match="shared memory"):
            run_plainly(text[: place.start()] + text[place.end() :])


def test_every_swapped_lane_is_found():
    text = entry("layer_targets.cu", STAGED)
    distances = set(re.findall(r"shfl\.sync\.bfly\.b32\s+[^,]+,[^,]+, (%r\d+),", text))
    places = [place for place in re.finditer(r"mov\.\w32\s+(%r\d+), (\d+);", text) if place[1] in distances]
    assert {place[2] for place in places} == {"2", "4", "8", "16"}
    for place in places:
        other = {"2": "4", "4": "2", "8": "4", "16": "8"}[place[2]]
        ours, exact = run_plainly(text[: place.start(2)] + other + text[place.end(2) :])
        assert not (ours - exact).abs().max() < 1e-4, place[0]


def test_a_chunk_that_is_one_too_long_is_found():
    (kernel,) = parse(entry("ema.cu", "ema_kernel")).values()
    memory = Memory(1 << 16)
    teacher, student = (memory.put(np.ones(1030, np.float32), name) for name in ("teacher", "student"))
    row = struct.pack("<QQQiBBBB", teacher.address, student.address, 0, 1031, 0, 0, 0, 0)
    table, decay = memory.put(np.frombuffer(row, np.int64), "table"), memory.put(np.float64([0.9]), "decay")
    with pytest.raises(Fault, match=r"out of bounds.*byte 4120 of buffer '(teacher|student)'.*ld\.global"):
        launch(kernel, 1, THREADS, [table, decay], memory)


@pytest.mark.parametrize("form", ["staged", "not staged"])
def test_strides_and_rows_beyond_32_bits(form):
    # The frames lie over 160 gigabytes; samples near 2^27 have rows whose first element is near 2^37.
    text = entry("layer_targets.cu", STAGED if form == "staged" else "IfLb1ELb0E")
    strides = {"sample_stride": (1 << 31) + 8, "frame_stride": 1 << 28}
    ours, exact = run_targets(text, **strides, at=GLOBAL_BASE + FAR, first=1 << 27)
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-5)
