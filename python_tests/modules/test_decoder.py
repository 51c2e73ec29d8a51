"""The decoder of data2vec 2.0 beside a few lines of plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from d2v_fast.modules.decoder import Decoder


def make(axes, **options):
    torch.manual_seed(0)
    settings = {"width": 12, "layers": 3, "kernel": 3, "groups": 4} | options
    return Decoder(8, axes=axes, **settings).double().eval()


def restated(decoder, grid, groups, residual):
    """[N, T, C] from the grid [N, *shape, C], channels first as torch has them."""
    x = grid.movedim(-1, 1)
    convolve = F.conv1d if x.dim() == 3 else F.conv2d
    for layer in decoder.convolutions:
        y = convolve(x, layer.weight, layer.bias, padding=layer.weight.shape[2] // 2, groups=groups)
        y = y[..., : x.shape[-1]] if x.dim() == 3 else y[..., : x.shape[-2], : x.shape[-1]]  # an even kernel
        y = F.gelu(F.layer_norm(y.movedim(1, -1), (layer.weight.shape[0],))).movedim(-1, 1)
        x = x + y if residual and x.shape == y.shape else y
    x = x.movedim(1, -1).flatten(1, -2)
    for i, linear in enumerate(decoder.projection):
        x = linear(F.gelu(x) if i else x)
    return x


@pytest.mark.parametrize(("axes", "shape"), [(1, (10,)), (2, (3, 4))])
@pytest.mark.parametrize(
    "options",
    [{}, {"width": 8}, {"width": 8, "residual": False}, {"kernel": 4}, {"hidden": [20, 6]}],
    ids=["wider", "as wide", "no residual", "even kernel", "three maps"],
)
def test_predictions_at_rows(axes, shape, options):
    decoder = make(axes, **options)
    width, samples = torch.tensor(shape).prod().item(), 2
    kept = torch.tensor([1, 4, 5, width, width + 3])
    rows = torch.tensor([0, 2, width + 1, 2 * width - 1])
    tokens = torch.randn(len(kept), 8, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(samples * width - len(kept), 8, dtype=torch.float64)
    hidden = [i for i in range(samples * width) if i not in kept]
    grid = torch.zeros(samples * width, 8, dtype=torch.float64)
    grid = grid.index_copy(0, kept, tokens).index_copy(0, torch.tensor(hidden), noise).view(samples, *shape, 8)
    expected = restated(decoder, grid, 4, options.get("residual", True)).flatten(0, 1)[rows]
    ours = decoder(tokens, kept, shape, rows, noise, samples=samples)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    leaves = [tokens, *decoder.parameters()]
    grads = [torch.autograd.grad(value.square().sum(), leaves) for value in (ours, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_noise_is_drawn_in_each_pass_with_its_deviation():
    decoder = make(1, width=8, layers=1, kernel=1, groups=8, noise=0.5)
    seen = []
    decoder._layer = lambda convolution, x: (seen.append(x.detach()), x)[1]
    kept, rows = torch.tensor([0]), torch.tensor([1])
    tokens = torch.full((1, 8), 9.0, dtype=torch.float64)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        decoder(tokens, kept, (2000,), rows, samples=1)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert seen[0][0, 0].eq(9).all()
    assert seen[0][0, 1:].std().item() == pytest.approx(0.5, rel=0.03)


def test_nothing_is_drawn_without_noise():
    decoder = make(1, noise=0.0)
    state = torch.get_rng_state()
    one = decoder(torch.ones(1, 8, dtype=torch.float64), torch.tensor([0]), (6,), torch.tensor([3]), samples=1)
    assert torch.equal(torch.get_rng_state(), state)
    zeros = torch.zeros(5, 8, dtype=torch.float64)
    same = decoder(torch.ones(1, 8, dtype=torch.float64), torch.tensor([0]), (6,), torch.tensor([3]), zeros, samples=1)
    assert torch.equal(one, same)
