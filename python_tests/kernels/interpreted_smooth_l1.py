"""The loss kernels in the interpreter: values and gradients of all formats beside float64, rows, NaN, no underflow."""

from __future__ import annotations

import math

import pytest
import torch
from d2v_fast.kernels import launch
from launches import run_backward, run_forward

from d2v_fast import reference

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
ROWS = torch.tensor([0, 1, 4, 9, 12])


def make(count, channels, dtype, target=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(count, channels, generator=generator, dtype=torch.float64) * 2
    return pred.to(dtype), torch.randn(count, channels, generator=generator, dtype=torch.float64).to(target)


def expected(pred, target, rows, beta, scale, dtype):
    """Row losses and their gradient for an incoming gradient of 1, in `dtype`."""
    pred = pred.detach().to(dtype)[None].requires_grad_()
    every = torch.arange(len(target)) if rows is None else rows
    losses = reference.masked_smooth_l1(pred, target.to(dtype), every, beta=beta, scale=scale, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), pred)[0][0]


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("target", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_losses_and_gradient(dtype, target, beta, no_worse_than):
    for channels in (257, 768) if target == torch.float32 else (40,):
        pred, goal = make(3, channels, dtype, target)
        losses, gradient, traffic = run_forward(pred, goal, None, beta=beta, scale=0.5, factor=0.5 if beta else 1.0)
        exact = expected(pred, goal, None, beta, 0.5, torch.float64)
        torchs = expected(pred, goal, None, beta, 0.5, torch.float32)
        no_worse_than(losses, torchs[0], exact[0])
        no_worse_than(gradient, torchs[1].to(dtype), exact[1])
        assert traffic == (pred.nbytes + goal.nbytes, pred.nbytes + losses.nbytes), "every byte once"


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_every_residue_of_a_step(dtype, no_worse_than, monkeypatch):
    monkeypatch.setattr(launch, "smooth_l1_block", lambda: launch.Tile(1, 16, 1))
    for channels in range(1, 34):  # one step, two, and a tail in either half
        pred, goal = make(1, channels, dtype)
        losses, gradient, _ = run_forward(pred, goal, None, beta=1.0, scale=1.0, factor=1.0)
        exact = expected(pred, goal, None, 1.0, 1.0, torch.float64)
        torchs = expected(pred, goal, None, 1.0, 1.0, torch.float32)
        no_worse_than(losses, torchs[0], exact[0])
        no_worse_than(gradient, torchs[1].to(dtype), exact[1])


@pytest.mark.parametrize("channels", [1, 2, 7, 31, 32, 33, 255, 256, 257, 511, 512, 1000])
def test_residues_of_a_block(channels, no_worse_than):
    pred, goal = make(2, channels, torch.bfloat16)
    losses, gradient, _ = run_forward(pred, goal, None, beta=1.0, scale=1.0, factor=1.0)
    exact = expected(pred, goal, None, 1.0, 1.0, torch.float64)
    torchs = expected(pred, goal, None, 1.0, 1.0, torch.float32)
    no_worse_than(losses, torchs[0], exact[0])
    no_worse_than(gradient, torchs[1].bfloat16(), exact[1])


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rows_pick_positions_and_scatter_the_gradient(dtype):
    pred, goal = make(15, 70, dtype)[0], make(5, 70, dtype, seed=1)[1]
    losses, gradient, _ = run_forward(pred, goal, ROWS, beta=1.0, scale=2.0, factor=2.0)
    gathered = run_forward(pred[ROWS], goal, None, beta=1.0, scale=2.0, factor=2.0)
    assert torch.equal(losses, gathered[0])
    assert torch.equal(gradient, torch.zeros_like(pred).index_copy(0, ROWS, gathered[1]))


def test_losses_alone_are_the_same_bits():
    pred, goal = make(3, 300, torch.bfloat16)
    both = run_forward(pred, goal, None, beta=2.0, scale=0.1, factor=1.0)
    alone = run_forward(pred, goal, None, beta=2.0, scale=0.1, factor=1.0, with_gradient=False)
    assert torch.equal(both[0], alone[0])
    assert alone[2].stored == alone[0].nbytes


def test_nan_stays_and_infinity_has_slope_one():
    pred = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [-math.inf, 0.5]])
    losses, gradient, _ = run_forward(pred, torch.zeros(3, 2), None, beta=1.0, scale=1.0, factor=1.0)
    assert losses[0].isnan()
    assert torch.equal(losses[1:], torch.tensor([math.inf, math.inf]))
    torch.testing.assert_close(gradient, torch.tensor([[math.nan, 0.0], [1.0, 0.0], [-1.0, 0.5]]), equal_nan=True)


def test_a_beta_whose_inverse_overflows_is_the_absolute_error():
    pred, goal = make(2, 50, torch.float32)
    goal[0] = pred[0]
    losses, gradient, _ = run_forward(pred, goal, None, beta=1e-42, scale=1.0, factor=1.0)
    assert losses[0] == 0
    assert not gradient[0].any()
    torch.testing.assert_close(losses[1], (pred[1] - goal[1]).abs().sum())
    assert torch.equal(gradient[1], (pred[1] - goal[1]).sign())


@pytest.mark.parametrize("rows", [None, ROWS])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_backward_multiplies_in_float32(dtype, per_row, rows):
    count = 15 if rows is None else len(rows)
    stored = make(15, 300, dtype)[0]
    incoming = torch.linspace(1, 2, count) * 1024 if per_row else torch.tensor(1024.0)
    factor = 1 / 3e6  # would be 3e-7 in float16, of two digits
    out = run_backward(stored, incoming, rows, factor)
    every = torch.arange(15) if rows is None else rows
    by = torch.broadcast_to(incoming, (count,)).double() * factor
    exact = torch.zeros(15, 300, dtype=torch.float64).index_copy(0, every, stored[every].double() * by[:, None])
    torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)


def test_same_bits_again():
    pred, goal = make(4, 770, torch.bfloat16)
    first = run_forward(pred, goal, None, beta=1.0, scale=1.0, factor=1.0)
    again = run_forward(pred.flip(0), goal.flip(0), None, beta=1.0, scale=1.0, factor=1.0)
    assert torch.equal(first[0], again[0].flip(0))
