"""fused_attention: values and gradients beside float64, hidden keys, dropout, layouts, the same bits always."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import library as torch_library

from d2v_fast import _C, reference
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.fused_attention import earlier_attention, fused_attention

LENGTHS = ([7, 3, 5], [1, 50, 97], [0, 6, 48], [49])


def make(lengths, dtype=torch.float32, heads=2, dim=20, extra=1):
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    positions = [torch.randperm(300, generator=generator)[:n].sort()[0] for n in lengths]
    for own in positions:
        own[:extra] = -1
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    factors = (torch.rand(heads, generator=generator, dtype=torch.float64) * 0.1).to(wide).requires_grad_()
    qkv = torch.randn(sum(lengths), 3, heads, dim, generator=generator, dtype=torch.float64).to(dtype)
    gradient = torch.randn(sum(lengths), heads, dim, generator=generator, dtype=torch.float64).to(dtype)
    return qkv.requires_grad_(), starts, torch.cat(positions), factors, max(lengths), gradient


def plainly(qkv, starts, positions, factors, visible, dtype):
    """One sequence after the other in `dtype`."""
    qkv, factors = qkv.detach().to(dtype).requires_grad_(), factors.detach().to(dtype).requires_grad_()
    parts = []
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        own = slice(first, end)
        bias = Distances(factors).bias(positions[own])
        if visible is not None:
            bias = bias.masked_fill(~visible[own], -torch.inf)
        parts.append(reference.attention(*(x[None, own] for x in qkv.unbind(1)), bias[None])[0])
    return torch.cat(parts), qkv, factors


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_error_is_at_most_twice_that_of_torch(dtype, lengths, hidden, no_worse_than):
    qkv, starts, positions, factors, longest, gradient = make(lengths, dtype)
    visible = None
    if hidden:
        visible = torch.rand(len(qkv), generator=torch.Generator().manual_seed(1)) < 0.7
        visible[starts[:-1][starts.diff() > 0].long()] = True
    ours = fused_attention(*qkv.unbind(1), starts, positions, factors, longest, visible=visible)
    results = []
    for wide in (torch.float32, torch.float64):
        out, *leaves = plainly(qkv, starts, positions, factors, visible, wide)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, gradient.to(wide))))
    gradients = torch.autograd.grad(ours, (qkv, factors), gradient)
    # The gradients go through the result as it was rounded, so those of 16 bits are compared with a tolerance.
    low = dtype in (torch.bfloat16, torch.float16)
    no_worse_than(ours, results[0][0].to(dtype), results[1][0])
    for one, torchs, exact in zip(gradients, results[0][1:], results[1][1:], strict=True):
        if low:
            atol = 8 * torch.finfo(dtype).eps * exact.abs().max().item()
            torch.testing.assert_close(one.double(), exact, rtol=0, atol=atol)
        else:
            error = (one.double() - exact).abs().max().item()
            allowed = 2 * (torchs.double() - exact).abs().max().item() + 2e-6 * exact.abs().max().item()
            assert error <= (allowed if dtype == torch.float32 else 1e-12 * exact.abs().max().item())


def test_gradcheck():
    qkv, starts, positions, factors, longest, _ = make([5, 1, 3], torch.float64, dim=3)
    visible = torch.tensor([True, True, False, True, True, True, True, False, True])
    for shown, dropout in ((None, 0.0), (visible, 0.0), (None, 0.4)):

        def run(x, f, shown=shown, dropout=dropout):
            torch.manual_seed(3)
            return fused_attention(*x.unbind(1), starts, positions, f, longest, visible=shown, dropout=dropout)

        assert torch.autograd.gradcheck(run, (qkv, factors))


def make_biased(lengths, dtype=torch.float32, heads=2, dim=20, shared=True):
    """As `make`, with a bias that is larger than the sequences and does not lie as the kernel reads it best."""
    qkv, starts, positions, _, longest, gradient = make(lengths, dtype, heads, dim)
    generator = torch.Generator().manual_seed(1)
    size = longest + 3
    bias = torch.randn(1 if shared else len(lengths), heads, size, size + 1, generator=generator, dtype=torch.float64)
    return qkv, starts, positions, bias.to(dtype)[..., :size].requires_grad_(), longest, gradient


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lengths", [[7, 3, 5, 1, 2, 6, 4, 5, 3, 7], [1, 50, 97], [0, 6, 48]], ids=str)
def test_any_bias_and_its_gradient(dtype, lengths, shared):
    """Beside float64; ten sequences that share a bias add to its gradient in three parts."""
    qkv, starts, positions, bias, longest, gradient = make_biased(lengths, dtype, shared=shared)
    out = fused_attention(*qkv.unbind(1), starts, positions, None, longest, bias=bias)
    ours = (out, *torch.autograd.grad(out, (qkv, bias), gradient))
    leaves = [x.detach().double().requires_grad_() for x in (qkv, bias)]
    parts = []
    for n, (first, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        own = leaves[1][0 if shared else n][None, :, : end - first, : end - first]
        parts.append(reference.attention(*(x[None, first:end] for x in leaves[0].unbind(1)), own)[0])
    exact = torch.cat(parts)
    exact = (exact, *torch.autograd.grad(exact, leaves, gradient.double()))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == dtype
        atol = 8 * torch.finfo(dtype).eps * (1 + other.abs().max().item())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=atol)


@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck_with_a_bias(shared):
    qkv, starts, positions, bias, longest, _ = make_biased([4, 1, 3], torch.float64, dim=3, shared=shared)
    for dropout in (0.0, 0.4):

        def run(x, b, dropout=dropout):
            torch.manual_seed(3)
            return fused_attention(*x.unbind(1), starts, positions, None, longest, bias=b, dropout=dropout)

        assert torch.autograd.gradcheck(run, (qkv, bias))


def test_bias_and_dropout_have_the_same_bits_for_any_number_of_threads(dtype, threads):
    qkv, starts, positions, bias, longest, gradient = make_biased([60, 1, 40, 33, 60, 60, 2, 60, 60, 9], dtype)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            torch.manual_seed(1)
            out = fused_attention(*qkv.unbind(1), starts, positions, None, longest, bias=bias, dropout=0.2)
            results.append((out, *torch.autograd.grad(out, (qkv, bias), gradient)))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_products_of_bfloat16_are_those_of_torch_up_to_rounding():
    """Where the processor has such products; elsewhere, and for earlier runs, products are made in float32."""
    qkv, starts, positions, bias, longest, gradient = make_biased([70, 33], torch.bfloat16, dim=64)
    results = []
    for earlier in (False, True):
        with earlier_attention() if earlier else nullcontext():
            out = fused_attention(*qkv.unbind(1), starts, positions, None, longest, bias=bias)
        results.append((out, *torch.autograd.grad(out, (qkv, bias), gradient)))
    assert (_C.isa() != "avx512bf16") == torch.equal(results[0][1], results[1][1])
    for one, other in zip(*results, strict=True):
        error = (one.double() - other.double()).norm() / other.double().norm()
        assert error < 4e-3, "a quarter of the last bit of bfloat16, as an average"


def test_without_factors_it_is_attention():
    qkv, starts, positions, factors, longest, _ = make([30, 9])
    ours = fused_attention(*qkv.unbind(1), starts, positions, None, longest)
    theirs = plainly(qkv, starts, positions, torch.zeros_like(factors), None, torch.float64)[0]
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)


def test_a_query_that_may_attend_to_nothing_is_zero():
    qkv, starts, positions, factors, longest, _ = make([4, 3])
    visible = torch.tensor([True] * 4 + [False] * 3)
    out = fused_attention(*qkv.unbind(1), starts, positions, factors, longest, visible=visible)
    assert not out[4:].any()
    out.sum().backward()
    assert not qkv.grad[4:].any()
    assert qkv.grad.isfinite().all()


def test_dropout_drops_its_share_and_keeps_the_mean():
    """Every value is 1, so an output is the share of its attention that was kept, times 1 / (1 - p)."""
    torch.manual_seed(0)
    starts, positions = torch.tensor([0, 600, 1000], dtype=torch.int32), torch.arange(1000)
    query, ones = torch.zeros(1000, 2, 4), torch.ones(1000, 2, 4)
    out = [fused_attention(query, query, ones, starts, positions, None, 600, dropout=0.25) for _ in range(2)]
    assert out[0].mean().item() == pytest.approx(1, abs=2e-3)
    # n weights of 1/n, each kept with probability .75: the variance is p / (1 - p) / n
    assert out[0][:600, :, 0].std().item() == pytest.approx((0.25 / 0.75 / 600) ** 0.5, rel=0.1)
    assert not torch.equal(out[0], out[1]), "another seed"
    heads = out[0][..., 0]
    assert abs(torch.corrcoef(heads[:600].T)[0, 1].item()) < 0.15, "heads draw for themselves"
    torch.manual_seed(0)
    assert torch.equal(fused_attention(query, query, ones, starts, positions, None, 600, dropout=0.25), out[0])


def test_nothing_of_the_size_of_the_scores_is_kept():
    """Beside what was given: the result and a number for each row."""
    qkv, starts, positions, bias, longest, _ = make_biased([300, 200])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = fused_attention(*qkv.unbind(1), starts, positions, None, longest, bias=bias, dropout=0.1)
    given = {x.untyped_storage().data_ptr() for x in (qkv, starts, positions, bias)}
    sizes = sorted(x.numel() for x in kept if x is not None and x.untyped_storage().data_ptr() not in given)
    assert sizes == [1, 500 * 2, out.numel()]  # the seed first


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_same_bits_for_any_number_of_threads(dtype, dropout, threads):
    qkv, starts, positions, factors, longest, gradient = make([90, 1, 60, 33], dtype)
    results = []
    for count in (1, 2, 2, 3):
        with threads(count):
            torch.manual_seed(1)
            out = fused_attention(*qkv.unbind(1), starts, positions, factors, longest, dropout=dropout)
            results.append((out, *torch.autograd.grad(out, (qkv, factors), gradient)))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_any_layout_gives_the_same_bits():
    qkv, starts, positions, factors, longest, gradient = make([20, 9])
    wanted = fused_attention(*qkv.unbind(1), starts, positions, factors, longest)
    copies = [x.contiguous() for x in qkv.unbind(1)]
    apart = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in qkv.unbind(1)]
    for query, key, value in (copies, apart):
        assert torch.equal(fused_attention(query, key, value, starts, positions, factors, longest), wanted)
    one = torch.autograd.grad(wanted, qkv, gradient, retain_graph=True)[0]
    other = torch.autograd.grad(wanted, qkv, gradient.transpose(0, 2).contiguous().transpose(0, 2))[0]
    assert torch.equal(one, other)


def test_is_a_well_behaved_operator():
    qkv, starts, positions, factors, longest, gradient = make([7, 3, 5])
    seed, visible = torch.tensor(7), torch.ones(15, dtype=torch.bool)
    for shown, biased, dropout, drawn in (
        (None, False, 0.0, None),
        (visible, False, 0.2, seed),
        (None, True, 0.2, seed),
    ):
        leaves = [x.detach().requires_grad_() for x in (*qkv.unbind(1), torch.zeros(1, 2, 9, 9) if biased else factors)]
        added = (None, leaves[3]) if biased else (leaves[3], None)
        arguments = (*leaves[:3], starts, positions, shown, *added, longest, dropout, drawn, True)
        operators = torch.ops.d2v_fast
        torch_library.opcheck(operators.fused_attention.default, arguments)
        out = operators.fused_attention(*arguments)
        backward = (gradient, *arguments[:8], *out, longest, dropout, drawn, True)
        torch_library.opcheck(operators.fused_attention_backward.default, [
            x.detach() if isinstance(x, torch.Tensor) else x for x in backward
        ])  # fmt: skip


def test_compiles_without_graph_breaks():
    torch._dynamo.reset()
    qkv, starts, positions, factors, longest, gradient = make([7, 3, 5])

    def run(qkv, factors, dropout):
        return fused_attention(*qkv.unbind(1), starts, positions, factors, longest, dropout=dropout)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(qkv, factors, 0.0), run(qkv, factors, 0.0)
    assert torch.equal(ours, theirs)
    leaves = (qkv, factors)
    pairs = zip(torch.autograd.grad(ours, leaves, gradient), torch.autograd.grad(theirs, leaves, gradient), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_refuses_what_does_not_fit():
    qkv, starts, positions, factors, longest, _ = make([7, 3])
    query, key, value = qkv.detach().unbind(1)
    factors = factors.detach()
    for arguments, options, message in [
        ((query[0], key, value, starts, positions, factors), {}, r"they must be \[S, heads, D\]"),
        ((query, key[:3], value, starts, positions, factors), {}, r"\[3, 2, 20\]"),
        ((query, key.double(), value, starts, positions, factors), {}, "convert them"),
        ((query, key, value, starts.long(), positions, factors), {}, "starts must be torch.int32"),
        ((query, key, value, starts, positions[:2], factors), {}, "positions must be torch.int64"),
        ((query, key, value, starts, positions, factors[:1]), {}, r"factors must be float \[heads = 2\]"),
        ((query, key, value, starts, positions, factors), {"visible": starts.bool()}, "visible must be torch.bool"),
        ((query, key, value, starts, positions, factors), {"dropout": 1.0}, r"dropout is 1\.0"),
        ((query, key, value, starts[:2], positions, factors), {}, "starts must go up from 0 to 10"),
        ((query, key, value, starts, positions.to("meta"), factors), {}, "on one device"),
        ((query, key, value, starts, positions, None), {"bias": torch.zeros(1, 2, 6, 6)}, "with L at least 7"),
        (
            (query, key, value, starts, positions, None),
            {"bias": torch.zeros(3, 2, 7, 7)},
            r"\[1 or N = 2\]?, heads = 2",
        ),
        ((query, key, value, starts, positions, factors), {"bias": torch.zeros(1, 2, 7, 7)}, "stand alone"),
    ]:
        with pytest.raises(ValueError, match=message):
            fused_attention(*arguments, longest, **options)
