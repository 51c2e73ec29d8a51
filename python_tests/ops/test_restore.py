"""restore: every place gets its token or its noise, and the gradient goes back the same way."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import ops, reference

KEPT = [1, 3, 4, 8, 9, 11]


def make(kept=KEPT, samples=3, width=4, channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(kept), channels, generator=generator, dtype=torch.float64).to(dtype)
    noise = torch.randn(samples * width - len(kept), channels, generator=generator, dtype=torch.float64).to(dtype)
    return tokens, torch.tensor(kept, dtype=torch.int64), noise


@pytest.mark.parametrize("kept", [KEPT, [], list(range(12)), [0], [11]], ids=str)
def test_every_place_has_its_token_or_its_noise(dtype, kept):
    tokens, index, noise = make(kept, dtype=dtype)
    grid = ops.restore(tokens, index, noise, 3, 4)
    assert grid.shape == (3, 4, 5)
    hidden = [place for place in range(12) if place not in kept]
    flat = grid.view(12, 5)
    assert torch.equal(flat[index], tokens)
    assert torch.equal(flat[hidden], noise)
    assert torch.equal(grid, reference.restore(tokens, index, noise, 3, 4))


def test_gradcheck():
    tokens, kept, noise = make()
    tokens.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.restore(x, kept, noise, 3, 4), (tokens,))
    noise.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ops.restore(x, kept, y, 3, 4), (tokens, noise))


def test_is_a_well_behaved_operator():
    tokens, kept, noise = make(dtype=torch.float32)
    torch.library.opcheck(torch.ops.d2v_fast.restore.default, (tokens.requires_grad_(), kept, noise, 3, 4))


def test_compiles_without_graph_breaks():
    torch._dynamo.reset()
    tokens, kept, noise = make(dtype=torch.float32)
    tokens.requires_grad_()

    def run(tokens, kept, noise):
        return ops.restore(tokens, kept, noise, 3, 4)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(tokens, kept, noise), run(tokens, kept, noise)
    assert torch.equal(ours, theirs)
    weights = torch.arange(60.0).view(3, 4, 5)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), tokens)
    assert torch.equal(gradient, weights.view(12, 5)[kept])


def test_any_number_of_threads_and_any_layout(dtype, threads):
    kept = torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.3
    places = kept.nonzero().flatten()
    wanted = torch.randn(4000, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    tokens, noise = wanted[kept], wanted[~kept]
    for count in (1, 2, 3):
        with threads(count):
            apart = tokens.t().contiguous().t(), places, noise.t().contiguous().t()
            for given in ((tokens, places, noise), apart):
                assert torch.equal(ops.restore(*given, 40, 100).view(4000, 24), wanted)


def test_refuses_what_does_not_fit():
    tokens, kept, noise = make()
    for arguments, error, message in [
        ((tokens[0], kept, noise, 3, 4), ValueError, r"tokens are \[5\]"),
        ((tokens, kept, noise[:, :2], 3, 4), ValueError, r"noise is \[6, 2\]"),
        ((tokens, kept[:3], noise, 3, 4), ValueError, "an index for each of the 6 tokens"),
        ((tokens, kept.int(), noise, 3, 4), ValueError, "int32"),
        ((tokens, kept, noise, 3, 5), ValueError, r"do not fill 3 \* 5 places"),
        ((tokens, kept, noise.float(), 3, 4), ValueError, "convert one"),
        ((tokens, kept.flip(0), noise, 3, 4), IndexError, r"kept\[1\] is 9 after 11"),
        ((tokens, kept + 1, noise, 3, 4), IndexError, r"kept\[5\] is 12"),
        ((tokens.long(), kept, noise.long(), 3, 4), TypeError, "int64"),
        ((tokens, kept.to("meta"), noise, 3, 4), ValueError, "kept on meta"),
    ]:
        with pytest.raises(error, match=message):
            ops.restore(*arguments)
