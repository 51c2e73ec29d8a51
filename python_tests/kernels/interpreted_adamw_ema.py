"""AdamW with the moving average in the interpreter: all formats, residues of a block, misaligned views, exact ends."""

from __future__ import annotations

import math

import pytest
import torch
from d2v_fast.kernels import launch
from launches import run_adamw

from d2v_fast import reference

EDGES = [1, 3, 1023, 1024, 1025, launch.EMA_CHUNK, launch.EMA_CHUNK + 5]
KEPT = ("parameters", "exp_avg", "exp_avg_sq", "teacher")
OPTIONS = {"betas": (0.9, 0.98), "eps": 1e-6}


def make(sizes, shadow=None, teacher_shadow=None, offset=0, done=1.0):
    """Lists of views, each at a multiple of 16 bytes and `offset` elements; every third has no teacher."""
    generator = torch.Generator().manual_seed(len(sizes) + offset)

    def view(size, dtype=torch.float32):
        return torch.randn(size + 8, generator=generator).to(dtype)[offset : offset + size]

    given = {name: [view(size) for size in sizes] for name in (*KEPT, "gradients")}
    given["exp_avg_sq"] = [x.square_() for x in given["exp_avg_sq"]]
    given["steps"] = [torch.tensor(done) for _ in sizes]
    given["teacher"] = [None if i % 3 == 2 else x for i, x in enumerate(given["teacher"])]
    given["shadow"] = [None if shadow is None else view(size, shadow) for size in sizes]
    followed = [x is not None and teacher_shadow is not None for x in given["teacher"]]
    given["teacher_shadow"] = [view(n, teacher_shadow) if f else None for n, f in zip(sizes, followed, strict=True)]
    return given


def copy_of(given, dtype=None):
    return {name: [None if x is None else x.to(dtype or x.dtype, copy=True) for x in given[name]] for name in given}


def expected(given, lr, weight_decay, *, betas, eps, scale=1.0, found=0.0, decay=0.999, dtype=None):
    """The reference's lists; it counts the steps itself."""
    lists = copy_of(given, dtype) | {"steps": [x - 1 for x in given["steps"]]}
    reference.adamw_ema_(
        **lists, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, gradient_scale=torch.tensor(scale),
        found_inf=torch.tensor(found), decay=decay,
    )  # fmt: skip
    return lists


def check(given, single, exact, no_worse_than):
    for name in KEPT:
        for ours, plain, truth in zip(given[name], single[name], exact[name], strict=True):
            if ours is not None:
                no_worse_than(ours, plain, truth)
    for copy, source in (("shadow", "parameters"), ("teacher_shadow", "teacher")):
        for x, y in zip(given[copy], given[source], strict=True):
            assert x is None or torch.equal(x, y.to(x.dtype)), "rounded to nearest even"


@pytest.mark.parametrize(
    ("shadow", "teacher_shadow"),
    [(None, None), (torch.bfloat16, torch.bfloat16), (torch.float16, None), (None, torch.float32)],
    ids=str,
)
def test_formats_at_the_edges_of_blocks_and_chunks(shadow, teacher_shadow, no_worse_than):
    edges = EDGES if shadow is teacher_shadow else [edge for edge in EDGES if edge < 2048]
    given = make(edges, shadow, teacher_shadow)
    rates = [1e-2 * (i + 1) for i in range(len(edges))], [0.1 * (i % 2) for i in range(len(edges))]
    single = expected(given, *rates, **OPTIONS, scale=3.0)
    exact = expected(given, *rates, **OPTIONS, scale=3.0, dtype=torch.float64)
    groups = run_adamw(given, *rates, **OPTIONS, scale=3.0)
    assert all(group.aligned for group, _ in groups)
    check(given, single, exact, no_worse_than)
    # Each byte once: 20 read and 16 written with a teacher, 16 and 12 without; tables and five numbers a chunk.
    widths = [0 if x is None else x.itemsize for x in (given["shadow"][0], given["teacher_shadow"][0])]
    stored = sum(n * (12 + widths[0] + (4 + widths[1]) * (i % 3 != 2)) for i, n in enumerate(edges))
    assert sum(traffic.stored for _, traffic in groups) == stored
    loaded = sum(n * (16 + 4 * (i % 3 != 2)) for i, n in enumerate(edges))
    chunks = sum(len(group.chunks) for group, _ in groups)
    assert sum(traffic.loaded for _, traffic in groups) == loaded + chunks * (3 * 8 + 12 * 8 + 4 + 4 + 4 + 8)


def test_every_residue_of_a_block_and_the_first_step(no_worse_than):
    given, count = make(range(1, 67), torch.bfloat16, torch.bfloat16, done=1.0), 66
    rates = [1e-3] * count, [0.1] * count
    for betas, decay in (((0.3, 0.999), 0.25), ((0.0, 0.0), 0.9)):
        single = expected(given, *rates, betas=betas, eps=1e-8, decay=decay)
        exact = expected(given, *rates, betas=betas, eps=1e-8, decay=decay, dtype=torch.float64)
        run_adamw(given, *rates, betas=betas, eps=1e-8, decay=decay, block=32)
        check(given, single, exact, no_worse_than)


def test_misaligned_tensors_go_their_own_way(no_worse_than):
    lists = [make([5, 1500], torch.float16, offset=offset, done=4.0) for offset in (0, 1, 4)]
    given = {name: [x for each in lists for x in each[name]] for name in lists[0]}
    rates = [1e-2] * 6, [0.1] * 6
    single, exact = (expected(given, *rates, **OPTIONS, dtype=dtype) for dtype in (None, torch.float64))
    groups = [group for group, _ in run_adamw(given, *rates, **OPTIONS)]
    assert sorted(group.aligned for group in groups) == [False, True]
    check(given, single, exact, no_worse_than)


@pytest.mark.parametrize("found", [1.0, math.nan])
def test_a_skipped_step_writes_nothing(found):
    given = make([40, 1030], torch.bfloat16, torch.bfloat16)
    given["gradients"][1].fill_(math.nan)
    before = copy_of(given)
    ((_, traffic),) = run_adamw(given, [0.1] * 2, [0.1] * 2, **OPTIONS, found=found)
    assert traffic.stored == 0
    for name in (*KEPT, "shadow", "teacher_shadow"):
        assert all(torch.equal(x, y) for x, y in zip(given[name], before[name], strict=True))


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ends_of_the_decay_are_exact_beside_infinities(decay):
    given = make([70])
    given["parameters"][0][::5] = math.inf
    given["teacher"][0][::7] = -math.inf
    before = given["teacher"][0].clone()
    run_adamw(given, [0.1], [0.1], **OPTIONS, decay=decay, block=32)
    assert torch.equal(given["teacher"][0], before if decay else given["parameters"][0])
