"""One check for each CUDA kernel: its PTX on all sizes that a fault could hide from, compared with float64.

The sizes are chosen by planted faults (test_ptx_mutants.py), as those of the Triton kernels are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import cuda_compiler
import numpy as np
import torch
from ptx import Kernel, Memory, Report, launch
from rounding import check_moved_from_the_nearer_end

from d2v_fast import reference

SOURCES = Path(__file__).parents[2] / "csrc/cuda"
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""As in csrc/cpu/kernels.h."""
THREADS = 256
MAX_STEPS = 1 << 14
"""No right kernel comes near it; a wrong one may go on for ever."""
NoWorse = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
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

# Formats, elements, decay, offset in elements. The last one is large.
EMA = [
    (FAST, 1030, 0.25, 0),
    (FAST, 2042, 1.0, 0),
    (FAST, 2042, 0.0, 0),
    (FAST, 1021, 0.999, 0),
    (FAST, 2, 0.001, 0),
    (EVERY, 259, 0.25, 0),
    (EVERY, 300, 0.9, 1),
    (EVERY, 259, 1.0, 1),
    (FAST, 4096, 0.999, 0),
]


def entry(file: str, name: str, arch: int = 90) -> str:
    """The PTX of one kernel of a .cu file; `name` is a part of its mangled name."""
    text = cuda_compiler.ptx(SOURCES / file, arch)
    head, *kernels = re.split(r"(?=\.visible \.entry)", text)
    return head + next(kernel for kernel in kernels if name in kernel.partition("(")[0])


def run_ema(kernel: Kernel, formats, size: int, decay: float, offset: int, no_worse_than: NoWorse) -> Report:
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
    given = [table, memory.put(np.float64([decay]), "decay")]
    report = launch(kernel, len(rows), THREADS, given, memory, max_steps=MAX_STEPS)
    for kinds, mine, (teacher, student) in zip(formats, buffers, tensors, strict=True):
        torchs, exact = [teacher.clone()], [teacher.double()]
        reference.ema_update_(torchs, [student], decay)
        reference.ema_update_(exact, [student.to(kinds[0]).double()], decay)
        ours = got(mine[0], kinds[0])
        no_worse_than(ours, torchs[0], exact[0])
        check_moved_from_the_nearer_end(ours, teacher, student, decay)
        if kinds[2] is not None:
            rounded = ours.float().to(kinds[2]) if kinds[2].itemsize == 2 else ours.to(kinds[2])
            assert torch.equal(got(mine[2], kinds[2]), rounded)
    return report


def ema(kernel: Kernel, no_worse_than: NoWorse) -> Iterator[tuple[Report, int]]:
    """The reports of all launches, each with its floor in bytes."""
    for formats, size, decay, offset in EMA:
        each = sum(t.itemsize * 2 + s.itemsize + (h.itemsize if h else 0) for t, s, h in formats)
        yield run_ema(kernel, formats, size, decay, offset, no_worse_than), size * each + 32 * len(formats)


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
    limits = {"shared_bytes": shared, "max_steps": MAX_STEPS}
    report = launch(kernel, batch * tiles, THREADS, [argument], memory, **limits)
    options = {"rows": chosen if rows else None, "lengths": valid if lengths else None}
    exact = reference.layer_targets([x.double() for x in layers], **options).reshape(count, channels)
    torchs = reference.layer_targets(layers, **options).reshape(count, channels)
    no_worse_than(got(out, F32), torchs, exact)
    moved = number * batch * frames * channels * dtype.itemsize + count * channels * 4
    return report, moved + 8 * count, number * count * channels * dtype.itemsize


TYPES = {"f32": ("f", F32), "bf16": ("13__nv_bfloat16", BF16), "f16": ("6__half", F16)}
SHAPES = [
    # Layers, batch, frames, channels (0 for those of the form); rows; rows with room; options.
    ((2, 2, 9, 0), 18, 20, {}),  # each sample's first frame
    ((2, 2, 37, 0), 20, 30, {"lengths": True}),
    ((3, 2, 37, 0), 30, 4, {}),  # more rows than there is room for
    ((1, 2, 5, 0), 10, 3, {"rows": False}),
    ((2, 4, 7, 0), 2, 9, {}),  # samples without rows
    ((1, 1, 200, 0), 5, 9, {}),  # the second of a thread's three frames is there for some, and then the third
    ((1, 1, 300, 0), 300, 310, {}),  # more rows than threads
    ((2, 1, 300, 0), 290, 280, {}),  # more room than threads
    ((3, 2, 400, 0), 300, 170, {}),
]
"""The last one is large."""
# The last frame is a thread's first, second or third, or the only one.
FRAMES = (9, 150, 300, 1)
REMAINDERS = [((2, 1, frames, channels), frames, 4, {}) for frames in FRAMES for channels in range(1, 9)]
"""Number by number: each number of channels that a load of eight may find."""
HALF_A_TILE = {
    2: [((2, 1, frames, 24), frames, 4, {}) for frames in FRAMES],
    4: [((2, 1, frames, 12), frames, 4, {}) for frames in FRAMES],
}
"""Vectors for one half of the last tile of channels, by the bytes of a number."""


def part(kind: str, vector: bool, staged: bool) -> str:
    """What the mangled name of a form of the targets' kernel has in it."""
    return f"I{TYPES[kind][0]}Lb{int(vector)}ELb{int(staged)}E"


def targets(
    kernel: Kernel, kind: str, vector: bool, staged: bool, no_worse_than: NoWorse
) -> Iterator[tuple[Report, int, int]]:
    """What `run_targets` gives, for all shapes."""
    dtype = TYPES[kind][1]
    own, offset = (32, 0) if vector else (37, dtype.itemsize)
    further = HALF_A_TILE[dtype.itemsize] if vector else REMAINDERS
    for shape, count, capacity, options in [*further, *SHAPES]:
        shape = *shape[:3], shape[3] or own
        yield run_targets(kernel, dtype, shape, count, capacity, staged, no_worse_than, offset=offset, **options)
