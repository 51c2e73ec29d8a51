"""Norm and GELU with weight and bias in the interpreter: values, statistics and gradients beside float64, and bytes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from launches import run_norm_gelu, run_norm_gelu_backward

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(7, 1), (5, 2), (3, 31), (8, 32), (9, 33), (4, 257), (5, 512)]
SHARE = 4
"""Rows of a program: the last one has fewer, as many, or one."""


def make(rows, channels, dtype, parameters=torch.float32):
    generator = torch.Generator().manual_seed(channels)
    x, gradient = torch.randn(2, rows, channels, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    return (x * 3 + 1).to(dtype), weight.to(parameters), bias.to(parameters), gradient.to(dtype)


def expected(given, dtype):
    *leaves, gradient = (part.to(dtype) for part in given)
    for leaf in leaves:
        leaf.requires_grad_()
    y = F.gelu(F.layer_norm(leaves[0], leaves[0].shape[-1:], *leaves[1:]))
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


@pytest.mark.parametrize(("rows", "channels"), SIZES)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rows_and_their_gradients(dtype, rows, channels, no_worse_than):
    given = make(rows, channels, dtype, torch.float16 if dtype == torch.float16 else torch.float32)
    exact, torchs = (expected(given, wide) for wide in (torch.float64, torch.float32))
    y, statistics, traffic = run_norm_gelu(*given[:3], SHARE)
    no_worse_than(y, torchs[0].to(dtype), exact[0])
    x = given[0].double()
    torch.testing.assert_close(statistics[0].double(), x.mean(1), rtol=1e-6, atol=1e-6)
    scale = (x.var(1, correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(statistics[1].double(), scale, rtol=1e-4 if channels == 2 else 2e-6, atol=0)
    programs = -(-rows // SHARE)
    parameters = programs * given[1].nbytes * 2
    assert traffic == (x.numel() * dtype.itemsize + parameters, given[0].nbytes + 8 * rows), "every byte once"
    of_x, sums, traffic = run_norm_gelu_backward(*given, statistics, SHARE)
    if channels > 2:  # of one or two channels the gradient is what rounding leaves of nothing
        no_worse_than(of_x, torchs[1].to(dtype), exact[1])
        no_worse_than(sums[0], torchs[2].float(), exact[2])
    no_worse_than(sums[1], torchs[3].float(), exact[3])
    assert traffic == (2 * given[0].nbytes + parameters + 8 * rows, given[0].nbytes + programs * 8 * channels)


def test_shares_change_the_sums_over_rows_alone():
    given = make(40, 33, torch.float32)
    results = []
    for share in (1, 16, 64):
        y, statistics, _ = run_norm_gelu(*given[:3], share)
        results.append((y, statistics, *run_norm_gelu_backward(*given, statistics, share)[:2]))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0][:3], other[:3], strict=True))
        torch.testing.assert_close(other[3], results[0][3], rtol=1e-5, atol=1e-5)


def test_nan_stays_in_its_row():
    given = make(5, 40, torch.float32)
    given[0][1, 3] = torch.nan
    y, statistics, _ = run_norm_gelu(*given[:3], SHARE)
    of_x, sums, _ = run_norm_gelu_backward(*given, statistics, SHARE)
    for rows in (y, statistics.t(), of_x):
        assert rows.isnan().any(1).tolist() == [False, True, False, False, False]
    assert sums.isnan().all()
