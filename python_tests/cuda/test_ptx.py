"""The PTX that nvcc makes of the CUDA kernels, executed in the simulator: results, races, coverage and traffic.

Nothing here was measured on a GPU.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from d2v_fast import reference

sys.path.insert(0, str(Path(__file__).parents[1] / "simulators"))

import cuda_compiler
import documented
from limits import Ratios, check_traffic
from ptx import Coverage, Memory, Report, launch, parse

pytestmark = pytest.mark.skipif(cuda_compiler.missing() is not None, reason=str(cuda_compiler.missing()))
SOURCES = Path(__file__).parents[2] / "csrc/cuda"
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""As in csrc/cpu/kernels.h."""
THREADS = 256
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def put(memory: Memory, tensor: torch.Tensor, name: str, offset: int = 0):
    return memory.put(tensor.view(BITS[tensor.element_size()]).numpy(), name, offset=offset)


def got(buffer, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(buffer.numpy()).view(dtype)


def noise(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
FAST = [(F32, s, h) for s in (F32, BF16, F16) for h in (None, BF16, F16)]
"""Formats of teacher, student and shadow that go four at a time."""
EVERY = [(t, s, h) for t in (F32, F64) for s in (F32, F64, BF16, F16) for h in (None, F32, F64, BF16, F16)]


@pytest.fixture(params=cuda_compiler.ARCHITECTURES, ids=lambda arch: f"sm_{arch}")
def arch(request) -> int:
    return request.param


def run_ema(kernel, formats, size: int, decay: float, offset: int, no_worse_than) -> Report:
    """One tensor for each triple of formats (teacher, student, shadow or None), all in one launch."""
    memory = Memory(1 << 22)
    rows, buffers, tensors = [], [], []
    for i, kinds in enumerate(formats):
        teacher, student = noise(size, dtype=kinds[0], seed=i), noise(size, dtype=kinds[1], seed=i + 99)
        tensors.append((teacher, student))
        named = {f"teacher{i}": teacher, f"student{i}": student}
        mine = [put(memory, x, name, offset and x.element_size()) for name, x in named.items()]
        if kinds[2] is not None:
            bits = torch.empty(0, dtype=BITS[kinds[2].itemsize]).numpy().dtype
            mine.append(memory.reserve((size,), bits, f"shadow{i}", offset=offset and kinds[2].itemsize))
        buffers.append(mine)
        addresses = [b.address for b in mine] + [0] * (3 - len(mine))
        rows.append(struct.pack("<QQQiBBBB", *addresses, size, *(CODES[kind or F32] for kind in kinds), 0))
    table = memory.put(np.frombuffer(b"".join(rows), np.int64), "table")
    report = launch(kernel, len(rows), THREADS, [table, memory.put(np.float64([decay]), "decay")], memory)
    for kinds, mine, (teacher, student) in zip(formats, buffers, tensors, strict=True):
        torchs, exact = [teacher.clone()], [teacher.double()]
        reference.ema_update_(torchs, [student], decay)
        reference.ema_update_(exact, [student.to(kinds[0]).double()], decay)
        ours = got(mine[0], kinds[0])
        no_worse_than(ours, torchs[0], exact[0])
        if kinds[2] is not None:
            rounded = ours.float().to(kinds[2]) if kinds[2].itemsize == 2 else ours.to(kinds[2])
            assert torch.equal(got(mine[2], kinds[2]), rounded)
    return report


def test_ema(arch, no_worse_than):
    (kernel,) = parse(cuda_compiler.ptx(SOURCES / "ema.cu", arch)).values()
    coverage = Coverage(kernel)
    for formats, size, decay, offset in [
        (FAST, 1030, 0.25, 0),
        (FAST, 1030, 1.0, 0),
        (FAST, 3, 0.0, 0),
        (EVERY, 259, 0.25, 0),
        (EVERY, 300, 0.9, 1),
        (EVERY, 259, 1.0, 1),
        (FAST, 4096, 0.999, 0),
    ]:
        report = run_ema(kernel, formats, size, decay, offset, no_worse_than)
        coverage.add(report)
    each = sum(2 * t.itemsize + s.itemsize + (h.itemsize if h else 0) for t, s, h in FAST)
    compare_with_document("ema", check_traffic(report, 4096 * each + 32 * len(FAST)))
    coverage.check({}, branches=False)


def run_targets(kernel, dtype, shape, count, capacity, staged, no_worse_than, *, rows=True, lengths=False, offset=0):
    """One launch of the instance-norm targets; gives the report, its floor in bytes, and the wanted rows' bytes."""
    number, batch, frames, channels = shape
    memory = Memory(1 << 23)
    layers = [noise(batch, frames, channels, dtype=dtype, seed=k) + k % 3 for k in range(number)]
    given = [put(memory, x, f"layer{k}", offset) for k, x in enumerate(layers)]
    chosen = torch.randperm(batch * frames, generator=torch.Generator().manual_seed(3))[:count].sort().values
    count = count if rows else batch * frames
    valid = torch.tensor([frames, *range(frames - 3, 0, -5)][:batch])
    out = memory.reserve((count, channels), np.int32, "out", offset=offset and 4)
    pointers = [
        put(memory, chosen, "rows").address if rows else 0,
        put(memory, valid, "lengths").address if lengths else 0,
        out.address,
    ]
    addresses, samples, steps = (
        [*values, *[0] * (64 - number)]
        for values in ([b.address for b in given], [frames * channels] * number, [channels] * number)
    )
    numbers = count, number, frames, channels, capacity, 1e-5
    argument = struct.pack("<64Q64q64qQQQqiiiif4x", *addresses, *samples, *steps, *pointers, *numbers)
    width = 32 // dtype.itemsize
    tiles = -(-channels // width)
    shared = capacity * (width * 4 + 4) + (frames * 32 if staged else 0)
    report = launch(kernel, batch * tiles, THREADS, [argument], memory, shared_bytes=shared)
    options = {"rows": chosen if rows else None, "lengths": valid if lengths else None}
    exact = reference.layer_targets([x.double() for x in layers], **options).reshape(count, channels)
    torchs = reference.layer_targets(layers, **options).reshape(count, channels)
    no_worse_than(got(out, F32), torchs, exact)
    moved = number * batch * frames * channels * dtype.itemsize + count * channels * 4
    return report, moved + 8 * count, number * count * channels * dtype.itemsize


EVERYTHING = os.environ.get("D2V_FAST_SIMULATE") == "all"
TYPES = {"f32": ("f", F32), "bf16": ("13__nv_bfloat16", BF16), "f16": ("6__half", F16)}
KERNELS = [
    pytest.param(arch, kind, vector, staged, id=f"sm_{arch} {kind} {how} {where}")
    for arch in cuda_compiler.ARCHITECTURES
    for kind in TYPES
    for vector, how in ((True, "vectors"), (False, "single"))
    for staged, where in ((True, "staged"), (False, "not staged"))
    # By default the kernel of the usual case on all architectures, the others on one.
    if EVERYTHING or arch == 90 or (kind, vector, staged) == ("bf16", True, True)
]


@pytest.mark.parametrize(("arch", "kind", "vector", "staged"), KERNELS)
def test_instance_targets(arch, kind, vector, staged, no_worse_than):
    type_name, dtype = TYPES[kind]
    kernels = parse(cuda_compiler.ptx(SOURCES / "layer_targets.cu", arch))
    kernel = next(k for name, k in kernels.items() if f"I{type_name}Lb{int(vector)}ELb{int(staged)}E" in name)
    coverage = Coverage(kernel)
    channels, offset = (32, 0) if vector else (37, dtype.itemsize)
    for shape, count, capacity, options in [
        ((2, 2, 37, channels), 20, 30, {"lengths": True}),
        ((3, 2, 37, channels), 30, 4, {}),  # more rows than there is room for
        ((1, 2, 5, channels), 10, 3, {"rows": False}),
        ((2, 4, 7, channels), 2, 9, {}),  # samples without rows
        ((3, 2, 400, channels), 300, 170, {}),
    ]:
        report, floor, rows = run_targets(
            kernel, dtype, shape, count, capacity, staged, no_worse_than, offset=offset, **options
        )
        coverage.add(report)
    coverage.check({}, branches=False)
    if vector:
        # Each tile of channels searches among the rows for a sample's first and last one, and then reads its row
        # numbers; not staged, it reads the wanted rows of the layers twice.
        tiles = channels * dtype.itemsize // 32
        ratios = check_traffic(report, floor, floor + 8 * count * (3 * tiles - 1) + (0 if staged else rows))
        compare_with_document(f"targets {kind} vectors {'staged' if staged else 'not staged'}", ratios)


def test_speech_base(no_worse_than):
    """One tile of channels (of 48) of 8 layers [8, 800, 768]: the whole kernel moves 48 times as much."""
    kernels = parse(cuda_compiler.ptx(SOURCES / "layer_targets.cu", 90))
    kernel = next(k for name, k in kernels.items() if "I13__nv_bfloat16Lb1ELb1E" in name)
    report, floor, _ = run_targets(kernel, BF16, (8, 8, 800, 16), 3136, 449, True, no_worse_than)
    check_traffic(report, floor, floor + 2 * 8 * 3136)
    assert 48 * (floor - 8 * 3136) == 8 * 8 * 800 * 768 * 2 + 3136 * 768 * 4


def compare_with_document(row: str, ratios: Ratios) -> None:
    documented.check("cuda", row, ratios.cells(), cuda_compiler.version())
