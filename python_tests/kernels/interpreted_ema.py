"""The EMA kernel in the interpreter: all formats, every residue of a block, misaligned views, exact ends."""

from __future__ import annotations

import math

import pytest
import torch
from d2v_fast.kernels import launch
from launches import run_ema

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
EDGES = [1, 3, 1023, 1024, 1025, 2048, launch.EMA_CHUNK - 1, launch.EMA_CHUNK, launch.EMA_CHUNK + 5]


def make(sizes, student, shadow=None, offset=0, seed=0):
    """Lists of views into flat buffers, each starting at a multiple of 16 bytes, plus `offset` elements."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(-(-size // 8) * 8 + 8 for size in sizes)
    flats = [torch.randn(total, generator=generator).to(dtype) for dtype in (torch.float32, student, shadow) if dtype]
    lists, start = [[] for _ in flats], offset
    for size in sizes:
        for views, flat in zip(lists, flats, strict=True):
            views.append(flat[start : start + size])
        start += -(-size // 8) * 8 + 8
    return lists if shadow else [*lists, None]


def check(teacher, student, shadow, before, decay, no_worse_than):
    for i, (mean, sample, old) in enumerate(zip(teacher, student, before, strict=True)):
        exact = old.double() + (1 - decay) * (sample.double() - old.double())
        no_worse_than(mean, torch.lerp(old, sample.float(), 1 - decay), exact)
        if shadow is not None:
            assert torch.equal(shadow[i], mean.to(shadow[i].dtype)), "rounded to nearest even"


@pytest.mark.parametrize("shadow", [None, *FORMATS], ids=str)
@pytest.mark.parametrize("student", FORMATS, ids=str)
def test_all_formats_at_the_edges_of_blocks_and_chunks(student, shadow, no_worse_than):
    edges = EDGES if shadow in (None, torch.bfloat16) else [edge for edge in EDGES if edge < 2048]
    teacher, sample, copy = make(edges, student, shadow)
    before = [tensor.clone() for tensor in teacher]
    ((group, traffic),) = run_ema(teacher, sample, 0.999, copy)
    assert group.aligned
    check(teacher, sample, copy, before, 0.999, no_worse_than)
    # Each byte once: the table's row and the decay for each chunk, then the numbers themselves.
    widths = 4, sample[0].itemsize, 0 if copy is None else copy[0].itemsize
    assert traffic.loaded == sum(edges) * (widths[0] + widths[1]) + len(group.table) * (4 * 8 + 8)
    assert traffic.stored == sum(edges) * (widths[0] + widths[2])


@pytest.mark.parametrize("student", FORMATS, ids=str)
def test_every_residue_of_a_block(student, no_worse_than):
    sizes = range(1, 130)  # blocks of 64: no whole block, one and two, with every tail
    teacher, sample, copy = make(sizes, student, torch.bfloat16)
    before = [tensor.clone() for tensor in teacher]
    run_ema(teacher, sample, 0.7, copy, block=64)
    check(teacher, sample, copy, before, 0.7, no_worse_than)


@pytest.mark.parametrize("decay", [0.9999, 0.5, 0.3, 1e-4])
def test_misaligned_tensors_go_their_own_way(decay, no_worse_than):
    lists = [make([5, 1500], torch.bfloat16, torch.float16, offset=offset, seed=offset) for offset in (0, 1, 2, 8)]
    teacher, sample, copy = ([view for views in lists for view in views[i]] for i in range(3))
    before = [tensor.clone() for tensor in teacher]
    groups = [group for group, _ in run_ema(teacher, sample, decay, copy)]
    assert [group.aligned for group in groups] == [True, False]
    assert [len(group.table) for group in groups] == [4, 4]
    check(teacher, sample, copy, before, decay, no_worse_than)


def test_weight_is_taken_in_float64():
    teacher = torch.zeros(100)
    run_ema([teacher], [torch.ones(100)], 0.9999)
    assert torch.equal(teacher, torch.full((100,), 1 - 0.9999))


AWKWARD = [math.inf, -math.inf, math.nan, 0.0, -0.0, 3.4e38, -3.4e38, 1e-40, 1.0]


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ends_are_exact_beside_infinities(decay):
    teacher = torch.tensor(AWKWARD * 9)
    student = torch.tensor(AWKWARD * 9).roll(4).clone()
    expected = (student if decay == 0 else teacher).clone()
    shadow = torch.zeros(len(teacher), dtype=torch.bfloat16)
    run_ema([teacher], [student], decay, [shadow], block=32)
    assert torch.equal(teacher.view(torch.int32), expected.view(torch.int32))
    torch.testing.assert_close(shadow, expected.bfloat16(), rtol=0, atol=0, equal_nan=True)
