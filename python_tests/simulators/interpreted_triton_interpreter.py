"""The strict interpreter: its numbers are torch's, and each planted fault is reported."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from d2v_fast.kernels import ema
from triton.runtime.errors import InterpreterError
from triton_interpreter import Fault, Traffic, launch


@triton.jit
def convert(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n)
    tl.store(y + at, value.to(tl.float32).to(y.dtype.element_ty), mask=at < n)


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16])
def test_conversions_round_like_torch(source, target):
    bits = torch.arange(-(1 << 15), 1 << 15).short()
    if source == torch.float32:  # every upper half, with lower halves around the middle
        x = ((bits.int() << 16) | torch.tensor([0x7FFF, 0x8000, 0x8001, 1]).repeat(1 << 14)).view(torch.float32)
        if target == torch.float16:
            x = x[x.abs() < 60000]  # where the two overflow at the same number
    else:
        x = bits.view(source)
    y = torch.empty_like(x, dtype=target)
    traffic = launch(convert, (-(-len(x) // 8192),), x, y, len(x), 8192)
    torch.testing.assert_close(y, x.float().to(target), rtol=0, atol=0, equal_nan=True)
    assert traffic == Traffic(x.nbytes, y.nbytes)


@triton.jit
def add(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at) + tl.load(x + at))


def test_bfloat16_arithmetic_is_refused():
    x, y = torch.ones(8, dtype=torch.bfloat16), torch.empty(8, dtype=torch.bfloat16)
    with pytest.raises(InterpreterError, match="cast to float32 first"):
        launch(add, (1,), x, y, 8)
    launch(add, (1,), x.float(), y.float(), 8)


@triton.jit
def copy(x, y, n, MASKED: tl.constexpr, OVER: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n + OVER
    value = tl.load(x + at, mask=mask)
    tl.store(y + at, value, mask=mask if MASKED else None)


def test_bounds():
    buffer = torch.zeros(64)
    x, y = torch.arange(10.0), buffer[:10]
    launch(copy, (2,), x, y, 10, True, 0, 8)
    assert torch.equal(y, x)
    with pytest.raises(Fault, match=r"load outside of every tensor at 1 of 3 addresses in program \(1, 0, 0\)"):
        launch(copy, (2,), x, y, 10, True, 1, 8)
    with pytest.raises(Fault, match="store outside of every tensor at 6 of 8"):
        launch(copy, (2,), x, y, 10, False, 0, 8)
    with pytest.raises(Fault, match="load outside"):
        launch(copy, (1,), buffer[:8], buffer[9:17], 9, True, 0, 16)  # the gap between two views of one buffer
    assert not buffer[10:].any(), "nothing was written where it must not be"


@triton.jit
def copy_rows(x, y, rows, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    for row in range(rows + 1):
        mask = (at < n) & (row < rows)
        tl.store(y + row * n + at, tl.load(x + row * n + at, mask=mask), mask=mask)


def test_a_mask_that_a_number_of_the_host_joins():
    x, y = torch.arange(15.0), torch.zeros(15)
    assert launch(copy_rows, (1,), x, y, 3, 5, 8) == Traffic(60, 60)
    assert torch.equal(y, x)


@triton.jit
def accumulate(x, total, ATOMIC: tl.constexpr):
    value = tl.load(x + tl.program_id(0))
    if ATOMIC:
        tl.atomic_add(total, value)
    else:
        tl.store(total, tl.load(total) + value)


def test_accumulation_without_atomics_is_a_race():
    x, total = torch.ones(8), torch.zeros(1)
    launch(accumulate, (8,), x, total, True)
    assert total.item() == 8
    with pytest.raises(Fault, match=r"race: a load of what another program stores in program \(1, 0, 0\)"):
        launch(accumulate, (8,), x, total, False)


@triton.jit
def neighbours(x, step, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + tl.program_id(0) * BLOCK + at, tl.load(x + tl.program_id(0) * BLOCK + at + step))


@triton.jit
def pile(x, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at // 2, at)


def test_stores_beside_loads():
    x = torch.zeros(24, dtype=torch.int32)
    launch(neighbours, (3,), x, 0, 8)
    with pytest.raises(Fault, match="race: a store to what another program loads"):
        launch(neighbours, (2,), x, 1, 8)
    with pytest.raises(Fault, match="two lanes store to one address"):
        launch(pile, (1,), x, 8)


@triton.jit
def leak(x, y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y, tl.sum(tl.load(x + at, mask=at < n), 0))


def test_lanes_that_a_mask_leaves_out_hold_rubbish():
    total = torch.zeros(1)
    launch(leak, (1,), torch.ones(5), total, 5, 8)
    assert total.isnan()


def table_of(x, y, count, times=1):
    return torch.tensor([[x.data_ptr(), y.data_ptr(), 0, count]] * times)


@pytest.mark.parametrize(
    ("count", "times", "offset", "fault"),
    [
        (40, 1, 0, None),
        (41, 1, 0, "load outside of every tensor at 1 of 9"),
        (40, 2, 0, "race: a load of what another program stores"),
        (40, 1, 1, "multiple_of says 16"),
    ],
    ids=["right", "count off by one", "chunk listed twice", "misaligned"],
)
def test_faults_of_a_table(count, times, offset, fault):
    x, y = torch.zeros(41)[offset:][:40], torch.ones(41)[offset:][:40]
    table, decay = table_of(x, y, count, times), torch.tensor([0.5], dtype=torch.float64)
    arguments = ema.ema_update, (times,), table, decay, tl.float32, None, True, 32
    if fault is None:
        launch(*arguments, memory=[x, y])
        assert torch.equal(x, torch.full((40,), 0.5))
    else:
        with pytest.raises(Fault, match=fault):
            launch(*arguments, memory=[x, y])
