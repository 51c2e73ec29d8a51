"""The kernels behind a decoder layer's convolution in the interpreter: values and gradients beside float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from d2v_fast.kernels.decoder_layer import gelu, gelu_slope
from launches import run_finish, run_unfinish

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
CHANNELS = [1, 2, 31, 32, 33, 257, 384, 768]


def make(channels, dtype, rows=3):
    generator = torch.Generator().manual_seed(channels)
    z, x, gradient = torch.randn(3, rows, channels, generator=generator, dtype=torch.float64).unbind(0)
    return (z * 3 + 1).to(dtype), x.to(dtype), gradient.to(dtype)


def expected(z, x, gradient, dtype):
    z, x, gradient = (part.to(dtype) for part in (z, x, gradient))
    z.requires_grad_()
    y = F.gelu(F.layer_norm(z, z.shape[-1:]))
    return (y + x).detach(), y.detach(), torch.autograd.grad(y, z, gradient)[0]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_rows_and_their_gradients(dtype, channels, no_worse_than):
    z, x, gradient = make(channels, dtype)
    exact, torchs = (expected(z, x, gradient, wide) for wide in (torch.float64, torch.float32))
    with_x, traffic = run_finish(z, x)
    no_worse_than(with_x, torchs[0].to(dtype), exact[0])
    assert traffic == (2 * z.nbytes, z.nbytes), "every byte once"
    alone, traffic = run_finish(z, None)
    no_worse_than(alone, torchs[1].to(dtype), exact[1])
    assert traffic == (z.nbytes, z.nbytes)
    of_z, traffic = run_unfinish(z, gradient)
    if channels > 2:  # of one or two channels the gradient is what rounding leaves of nothing
        no_worse_than(of_z, torchs[2].to(dtype), exact[2])
    assert traffic == (2 * z.nbytes, z.nbytes)


def test_nan_stays_in_its_row():
    z, x, gradient = make(40, torch.float32)
    z[1, 3] = torch.nan
    assert run_finish(z, x)[0].isnan().any(1).tolist() == [False, True, False]
    assert run_unfinish(z, gradient)[0].isnan().any(1).tolist() == [False, True, False]


@triton.jit
def gelu_of(u: tl.tensor, y: tl.tensor, slope: tl.tensor, COUNT: tl.constexpr) -> None:
    at = tl.arange(0, COUNT)
    x = tl.load(u + at)
    tl.store(y + at, gelu(x))
    tl.store(slope + at, gelu_slope(x))


def test_gelu_and_its_derivative_have_their_digits_far_below_zero_too():
    u = torch.linspace(-12, 12, 1 << 15)
    y, slope = torch.empty(2, len(u))
    gelu_of[(1,)](u, y, slope, len(u))
    x = u.double()
    below, density = 0.5 * torch.special.erfc(-x * 0.5**0.5), (-0.5 * x * x).exp() * (2 * torch.pi) ** -0.5
    error = (y - x * below).abs()
    assert error.max() < 5e-7
    assert (error / (x * below).abs()).max() < 1e-5
    assert (slope - (below + x * density)).abs().max() < 4e-7
