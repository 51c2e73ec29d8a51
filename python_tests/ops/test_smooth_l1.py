"""masked_smooth_l1: values and gradients beside torch's own, float16 without underflow, rows, the same bits always."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v_fast import reference
from d2v_fast.ops import masked_smooth_l1

BETAS = [0.0, 0.25, 1.0, 4.0]


def make(count, channels, dtype=torch.float32, target=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randn(count, channels, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return pred, torch.randn(count, channels, generator=generator, dtype=torch.float64).to(target or dtype)


def spread(pred, rows, positions):
    """[1, positions, C] with the rows of pred where `rows` says, and noise elsewhere."""
    full = torch.randn(1, positions, pred.shape[1], generator=torch.Generator().manual_seed(9)).to(pred.dtype)
    full[0, rows] = pred.detach()
    return full.requires_grad_()


def plain(pred, target, beta, scale, reduction):
    """torch's own operations in the dtype of pred, as an eager user writes them."""
    target = target.to(pred.dtype)
    error = (
        F.mse_loss(pred, target, reduction="none")
        if beta == 0
        else F.smooth_l1_loss(pred, target, reduction="none", beta=beta)
    )
    losses = error.sum(dim=-1) * scale
    return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]


def gradient(loss, pred):
    return torch.autograd.grad(loss.sum(), pred)[0]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_error_is_at_most_twice_that_of_torch(dtype, beta, reduction, no_worse_than):
    for count, channels in [(1, 1), (13, 768), (40, 129), (3, 1023), (3, 2100)]:
        pred, target = make(count, channels, dtype)
        exact_pred = pred.detach().double().requires_grad_()
        exact = plain(exact_pred, target.double(), beta, 0.5, reduction)
        torchs = plain(pred, target, beta, 0.5, reduction)
        torchs_gradient = gradient(torchs, pred)
        ours = masked_smooth_l1(pred, target, beta=beta, scale=0.5, reduction=reduction)
        wide = torch.promote_types(dtype, torch.float32)
        assert ours.dtype == wide
        # torch's low-precision loss is rounded to the dtype of pred; ours must be a float32 result.
        torchs = plain(pred.detach().to(wide), target.to(wide), beta, 0.5, reduction)
        no_worse_than(ours, torchs, exact.detach())
        no_worse_than(gradient(ours, pred), torchs_gradient, gradient(exact, exact_pred))


@pytest.mark.parametrize("beta", BETAS)
def test_rows_pick_positions_and_scatter_the_gradient(dtype, beta):
    pred, target = make(9, 77, dtype, torch.float32)
    rows = torch.tensor([0, 1, 4, 5, 6, 11, 12, 18, 19])
    full = spread(pred, rows, 20).detach().view(2, 10, 77).requires_grad_()
    gathered = masked_smooth_l1(pred, target, beta=beta, scale=2.0)
    scattered = masked_smooth_l1(full, target, rows, beta=beta, scale=2.0)
    assert torch.equal(gathered, scattered)
    expected = torch.zeros(20, 77, dtype=dtype)
    expected[rows] = gradient(gathered, pred)
    assert torch.equal(gradient(scattered, full).view(20, 77), expected)


def test_values_by_hand():
    pred = torch.tensor([[0.5, -3.0], [0.0, 2.0]], requires_grad=True)
    target = torch.zeros(2, 2)
    # smooth-L1 with beta 2: x^2 / 4 below 2, |x| - 1 from there
    losses = masked_smooth_l1(pred, target, beta=2.0, reduction="none")
    assert losses.tolist() == [0.0625 + 2.0, 1.0]
    assert gradient(losses, pred).tolist() == [[0.25, -1.0], [0.0, 1.0]]
    squares = masked_smooth_l1(pred, target, beta=0.0, scale=0.5)
    assert squares.item() == 0.5 * (0.25 + 9.0 + 4.0) / 2
    assert gradient(squares, pred).tolist() == [[0.25, -1.5], [0.0, 1.0]]


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(beta, reduction):
    pred, target = make(4, 5, torch.float64)
    rows = torch.tensor([1, 2, 4, 5])
    full = spread(pred, rows, 6).detach().view(2, 3, 5).requires_grad_()

    def gathered(x):
        return masked_smooth_l1(x, target, beta=beta, scale=0.3, reduction=reduction)

    def scattered(x):
        return masked_smooth_l1(x, target, rows, beta=beta, scale=0.3, reduction=reduction)

    assert torch.autograd.gradcheck(gathered, (pred,))
    assert torch.autograd.gradcheck(scattered, (full,))


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 13),
    channels=st.integers(0, 140),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    beta=st.sampled_from(BETAS),
    layout=st.sampled_from(["plain", "transposed", "offset"]),
    data=st.data(),
)
def test_any_shape_and_layout_agrees_with_the_reference(batch, frames, channels, share, beta, layout, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    values = torch.randn(batch, frames, channels, generator=generator).to(dtype)
    if layout == "transposed":
        pred = values.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "offset":
        pred = torch.zeros(values.numel() + 1, dtype=dtype)[1:].view(values.shape).copy_(values)
    else:
        pred = values
    pred = pred.requires_grad_()
    rows = (torch.rand(batch * frames, generator=generator) < share).nonzero().flatten()
    target = torch.randn(channels, rows.numel(), generator=generator).t()
    ours = masked_smooth_l1(pred, target, rows, beta=beta, scale=0.5, reduction=reduction)
    other = values.clone().requires_grad_()
    theirs = reference.masked_smooth_l1(other, target, rows, beta=beta, scale=0.5, reduction=reduction)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(gradient(ours, pred), gradient(theirs, other), rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_row_is_zero_with_zero_gradient(dtype, reduction):
    pred = torch.full((2, 3, 4), math.nan, dtype=dtype, requires_grad=True)
    loss = masked_smooth_l1(pred, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), beta=1.0, reduction=reduction)
    assert loss.sum().item() == 0
    assert torch.equal(gradient(loss, pred), torch.zeros(2, 3, 4, dtype=dtype))


def test_unmasked_positions_do_not_matter_even_when_not_finite():
    pred = torch.tensor([[[math.nan], [1.0], [math.inf]]], requires_grad=True)
    loss = masked_smooth_l1(pred, torch.tensor([[3.0]]), torch.tensor([1]), beta=1.0)
    assert loss.item() == 1.5
    for incoming in (1.0, math.nan):
        result = torch.autograd.grad(loss * incoming, pred, retain_graph=True)[0].flatten()
        assert result[0] == 0
        assert result[2] == 0


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("where", ["pred", "target"])
def test_nan_propagates(dtype, beta, where):
    pred, target = make(3, 200, dtype)
    with torch.no_grad():
        {"pred": pred, "target": target}[where][1, 150] = math.nan
    losses = masked_smooth_l1(pred, target, beta=beta, reduction="none")
    assert losses.isnan().tolist() == [False, True, False]
    wrong = gradient(losses, pred).isnan()
    assert wrong.nonzero().tolist() == [[1, 150]]


def test_infinite_difference():
    pred = torch.tensor([[math.inf], [-math.inf]], requires_grad=True)
    loss = masked_smooth_l1(pred, torch.zeros(2, 1), beta=1.0, reduction="none")
    assert loss.tolist() == [math.inf, math.inf]
    assert gradient(loss, pred).tolist() == [[1.0], [-1.0]]


def test_float16_does_not_underflow():
    """1/M is below float16's range here, but the loss scale in the incoming gradient brings it back in float32."""
    count = 100_000
    pred = torch.full((count, 1), 0.5, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(count, 1)
    loss = masked_smooth_l1(pred, target, beta=1.0, scale=1e-4)
    assert loss.dtype == torch.float32
    (loss * 2.0**30).backward()
    expected = torch.tensor(0.5 * 1e-4 / count * 2.0**30).half()
    assert expected > 0.5
    assert torch.equal(pred.grad, expected.expand(count, 1))


def test_beta_below_the_normal_numbers_is_absolute_error():
    pred, target = make(2, 30)
    loss = masked_smooth_l1(pred, target, beta=1e-300, reduction="sum")
    torch.testing.assert_close(loss, (pred - target).abs().sum())
    assert torch.equal(gradient(loss, pred), (pred - target).sign())


@pytest.mark.parametrize("rows", [True, False])
def test_same_bits_for_any_number_of_threads_and_every_run(dtype, rows, threads):
    pred, target = make(900, 300, dtype, torch.float32)
    index = torch.arange(0, 1800, 2) if rows else None
    if rows:
        pred = spread(pred, index, 1800)
    results = []
    for count in [1] + [2] * 20:
        with threads(count):
            loss = masked_smooth_l1(pred, target, index, beta=0.5)
            results.append((loss, torch.autograd.grad(loss, pred, retain_graph=True)[0], gradient(3 * loss, pred)))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_incoming_gradient_scales(dtype):
    pred, target = make(7, 50, dtype)
    once = gradient(masked_smooth_l1(pred, target, beta=1.0), pred)
    four = gradient(4 * masked_smooth_l1(pred, target, beta=1.0), pred)
    torch.testing.assert_close(four, 4 * once, rtol=0, atol=1e-6 if dtype == torch.float16 else 0)
    losses = masked_smooth_l1(pred, target, beta=1.0, reduction="none")
    weights = torch.arange(7, dtype=losses.dtype)
    by_row = torch.autograd.grad(losses, pred, weights)[0]
    alone = gradient(masked_smooth_l1(pred, target, beta=1.0, reduction="sum"), pred)
    torch.testing.assert_close(by_row, (weights[:, None] * alone).to(dtype))


def test_backward_twice_and_accumulation():
    """The stored gradient is handed out, so nobody may change it: a second pass finds the same values."""
    pred, target = make(5, 6)
    loss = masked_smooth_l1(pred, target, beta=1.0)
    loss.backward(retain_graph=True)
    first = pred.grad.clone()
    pred.grad.mul_(10)
    pred.grad = None
    loss.backward()
    assert torch.equal(pred.grad, first)
    masked_smooth_l1(pred, target, beta=1.0).backward()
    assert torch.equal(pred.grad, 2 * first)


def test_no_gradient_is_stored_when_none_is_asked_for():
    pred, target = make(3, 4)
    with torch.no_grad():
        silent = masked_smooth_l1(pred, target, beta=1.0)
    assert not silent.requires_grad
    assert torch.equal(silent, masked_smooth_l1(pred, target, beta=1.0).detach())
    assert not masked_smooth_l1(pred.detach(), target, beta=1.0).requires_grad
    with torch.inference_mode():
        assert torch.equal(masked_smooth_l1(pred, target, beta=1.0), silent)


def test_second_derivative_is_refused():
    pred, target = make(3, 4)
    factor = torch.ones((), requires_grad=True)
    (plain,) = torch.autograd.grad(masked_smooth_l1(pred, target, beta=1.0) * factor, pred)
    (first,) = torch.autograd.grad(masked_smooth_l1(pred, target, beta=1.0) * factor, pred, create_graph=True)
    assert torch.equal(first.detach(), plain)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 6], r"rows\[1\] is 6, outside of the 6"),
        ([-1, 2], r"rows\[0\] is -1, outside"),
        ([2, 1], r"rows\[1\] is 1 after 2: .*ascending"),
        ([3, 3], r"rows\[1\] is 3 after 3: .*unique"),
    ],
)
def test_wrong_rows_are_named(rows, message):
    for pred in (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, requires_grad=True)):
        with pytest.raises(IndexError, match=message):
            masked_smooth_l1(pred, torch.zeros(2, 4), torch.tensor(rows), beta=1.0)


def test_wrong_arguments_are_named():
    pred, target, rows = torch.zeros(2, 3, 4), torch.zeros(2, 4), torch.tensor([0, 1])
    for kind, message, arguments, options in [
        (ValueError, "target requires grad", (pred, target.clone().requires_grad_(), rows), {}),
        (ValueError, "beta is -1", (pred, target, rows), {"beta": -1.0}),
        (ValueError, "beta is nan", (pred, target, rows), {"beta": math.nan}),
        (ValueError, "scale is inf", (pred, target, rows), {"scale": math.inf}),
        (ValueError, "reduction is 'median'", (pred, target, rows), {"reduction": "median"}),
        (ValueError, r"pred has shape \(2, 3, 4\); it must be \[M, C\]", (pred, target), {}),
        (ValueError, r"target has shape \(2, 4\); .* \(1, 4\)", (pred, target, rows[:1]), {}),
        (ValueError, r"pred has shape \(6, 4\) and rows \(2,\)", (pred.flatten(0, 1), target, rows), {}),
        (TypeError, "rows have dtype torch.bool", (pred, target, torch.ones(2, 3, dtype=torch.bool)), {}),
        (TypeError, "pred has dtype torch.int64", (pred.long(), target, rows), {}),
        (TypeError, "target has dtype torch.int32", (pred, target.int(), rows), {}),
    ]:
        with pytest.raises(kind, match=message):
            masked_smooth_l1(*arguments, **{"beta": 1.0, **options})


def test_mixed_dtypes():
    for one, other in itertools.product([torch.float32, torch.float64, torch.bfloat16, torch.float16], repeat=2):
        pred, target = make(4, 33, one, other)
        ours = masked_smooth_l1(pred, target, beta=1.0)
        theirs = reference.masked_smooth_l1(pred, target, beta=1.0)
        assert ours.dtype == (torch.float64 if torch.float64 in (one, other) else torch.float32)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        assert gradient(ours, pred).dtype == one
