"""What every route must get right, through the public operations: for interpreted_triton.py and test_cuda.py."""

from __future__ import annotations

from itertools import pairwise

import torch

from d2v_fast import ops, reference
from d2v_fast.ops.distances import Distances
from d2v_fast.ops.fused_attention import fused_attention

LOW = [torch.float32, torch.bfloat16, torch.float16]
ROWS = torch.tensor([0, 1, 4, 9, 12, 20, 23])


# --- the moving average ---


def ema_agrees(teacher, student, decay, shadow, no_worse_than):
    """Runs the operation and compares with float64."""
    theirs, exact = [t.clone() for t in teacher], [t.double() for t in teacher]
    reference.ema_update_(theirs, student, decay)
    reference.ema_update_(exact, [s.double() for s in student], decay)
    versions = [t._version for t in teacher]
    ops.ema_update_(teacher, student, decay, shadow)
    for index, mean in enumerate(teacher):
        no_worse_than(mean, theirs[index], exact[index])
        assert mean._version > versions[index] or mean.numel() == 0
        if shadow is not None:
            assert torch.equal(shadow[index], mean.to(shadow[index].dtype))


def ema_lists():
    """Name -> teacher, student, shadow: every way in which tensors lie in memory."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    shapes = [(3, 5), (), (0,), (40, 26), (1027,), (2, 3, 4)]
    students = [torch.float32, torch.bfloat16, torch.float16, torch.bfloat16, torch.float16, torch.float64]
    shadows = [torch.bfloat16, torch.float16, torch.bfloat16, torch.float32, torch.bfloat16, torch.float16]
    flat, half = randn(4000), randn(4000, dtype=torch.bfloat16)
    return {
        "one format": ([randn(*s) for s in shapes], [randn(*s, dtype=torch.bfloat16) for s in shapes], None),
        "mixed formats": (
            [randn(*s) for s in shapes],
            [randn(*s, dtype=d) for s, d in zip(shapes, students, strict=True)],
            [torch.zeros(s, dtype=d) for s, d in zip(shapes, shadows, strict=True)],
        ),
        "float64": ([randn(30).double(), randn(20)], [randn(30), randn(20).double()], [randn(30).half(), randn(20)]),
        "odd offsets": (
            [flat[1:100], flat[102:1500], flat[1501:3900]],
            [half[3:102], half[104:1502], half[1503:3902]],
            [torch.zeros(99).bfloat16(), torch.zeros(1399).half()[1:], torch.zeros(2400).bfloat16()[1:]],
        ),
        "dense in another order": ([randn(6, 4).T], [randn(6, 4).bfloat16().T], [torch.zeros(6, 4).half().T]),
        "channels last": tuple(
            [randn(2, 8, 5, 5).to(dtype, memory_format=torch.channels_last)]
            for dtype in (torch.float32, torch.float16, torch.bfloat16)
        ),
        "orders that differ": ([randn(6, 4).T, randn(3)], [randn(4, 6), randn(3)], None),
        "gaps": (
            [randn(6, 8)[:, ::2], randn(5, 7)[:, 1:6]],
            [randn(6, 8)[:, 1::2], randn(5, 5)],
            [randn(6, 4), randn(5, 5)],
        ),
        "gaps alike": ([randn(6, 8)[:, ::2]], [randn(6, 8)[:, ::2]], [torch.zeros(6, 8)[:, ::2]]),
        "nothing": ([], [], None),
        "empty tensors": ([torch.zeros(0), torch.zeros(3, 0)], [torch.zeros(0), torch.zeros(3, 0)], None),
    }


EMA = list(ema_lists())


def ema(name, decay, no_worse_than):
    ema_agrees(*(lists := ema_lists()[name])[:2], decay, lists[2], no_worse_than)


def ema_ends(decay):
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 1e-45, 3e38, 0.1, 0.2])
    teacher, student = special.clone(), special.flip(0).clone()
    expected = (teacher if decay else student).clone()
    ops.ema_update_([teacher], [student], decay)
    assert torch.equal(teacher.view(torch.int32), expected.view(torch.int32))


def ema_of_a_decay_tensor():
    teacher = torch.zeros(9)
    ops.ema_update_([teacher], [torch.ones(9)], torch.tensor(0.9999, dtype=torch.float64))
    assert torch.equal(teacher, torch.full((9,), 1 - 0.9999)), "1 - decay is taken in float64"


# --- layer targets ---


def make_layers(count, shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(shape[-1], generator=generator) * 5
    return [(torch.randn(*shape, generator=generator) * (k + 1) + centre).to(dtype) for k in range(count)]


def layouts(layers):
    """Name -> the layers, lying differently in memory."""
    batch, frames, channels = layers[0].shape
    room = [torch.zeros(batch, frames + 3, channels + 1, dtype=layer.dtype) for layer in layers]
    views = [wide[:, 1 : frames + 1, 1:] for wide in room]
    for view, layer in zip(views, layers, strict=True):
        view.copy_(layer)
    frames_first = [layer.transpose(0, 1).contiguous().transpose(0, 1) for layer in layers]
    return {
        "contiguous": layers,
        "frames first": frames_first,
        "several layouts": [frames_first[0], *layers[1:]],
        "odd offsets": views,
        "channels apart": [layer.transpose(1, 2).contiguous().transpose(1, 2) for layer in layers],
        "one channel for all": [layer[..., :1].expand(-1, -1, channels) for layer in layers],
        "one sample for all": [layer[:1].expand(batch, -1, -1) for layer in layers],
    }


LAYOUTS = list(layouts([torch.zeros(1, 1, 1)]))


def targets(layers, no_worse_than, rows=None, **options):
    ours = ops.layer_targets(layers, rows, **options)
    exact = reference.layer_targets([layer.double() for layer in layers], rows, **options)
    theirs = reference.layer_targets(layers, rows, **options)
    assert not ours.requires_grad
    no_worse_than(ours, theirs, exact)


def targets_of_all_norms(dtype, norms, no_worse_than):
    layers = make_layers(2, (3, 9, 20), dtype)
    options = dict(zip(("layer_norm", "final_norm"), norms, strict=True))
    lengths = torch.tensor([9, 4, 1])
    targets(layers, no_worse_than, ROWS, **options)
    targets(layers, no_worse_than, None, lengths=lengths, **options)
    targets(layers, no_worse_than, ROWS, lengths=lengths, eps=1e-3, **options)


def targets_of_a_layout(layout, norm, no_worse_than):
    layers = layouts(make_layers(3, (3, 9, 16), torch.bfloat16))[layout]
    targets(layers, no_worse_than, ROWS, layer_norm=norm, lengths=torch.tensor([5, 9, 7]), eps=0.1)


def targets_of_awkward_sizes(norm, no_worse_than):
    for shape in ((1, 7, 1), (2, 1, 8), (1, 1, 3), (4, 3, 33)):
        if norm == "instance" and shape[1] == 1:
            continue  # a variance of nothing: all is 0 / sqrt(eps)
        targets(make_layers(1, shape, torch.float32), no_worse_than, layer_norm=norm, eps=1.0)
    targets(make_layers(5, (2, 6, 12), torch.float16), no_worse_than, torch.tensor([11]), layer_norm=norm)
    rows = torch.arange(24)[::2]  # strided
    targets(make_layers(2, (4, 6, 12), torch.float32), no_worse_than, rows, layer_norm=norm)
    lengths = torch.tensor([6, 0, 2, 0, 3, 0, 1, 0])[::2]
    targets(make_layers(2, (4, 6, 12), torch.float32), no_worse_than, rows, layer_norm=norm, lengths=lengths)


def targets_of_nothing(norm):
    layers = make_layers(2, (2, 5, 8), torch.float32)
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.layer_targets(layers, none, layer_norm=norm).shape == (0, 8)
    assert ops.layer_targets([layer[:0] for layer in layers], none, layer_norm=norm).shape == (0, 8)
    assert ops.layer_targets([layer[:0] for layer in layers], layer_norm=norm).shape == (0, 5, 8)
    assert ops.layer_targets([layer[..., :0] for layer in layers], torch.tensor([1]), layer_norm=norm).shape == (1, 0)


# --- the loss ---


def loss(pred, target, rows, no_worse_than, *, incoming=None, **options):
    """Value and gradient against float64 autograd of the reference."""
    results = []
    for function, dtype in ((ops, None), (reference, torch.float32), (reference, torch.float64)):
        leaf = (pred if dtype is None else pred.to(dtype)).detach().requires_grad_()
        goal = target if dtype is None else target.to(dtype)
        value = function.masked_smooth_l1(leaf, goal, rows, **options)
        gradient = torch.autograd.grad(value, leaf, None if incoming is None else incoming.to(value.dtype))[0]
        results.append((value.detach(), gradient.to(pred.dtype) if dtype == torch.float32 else gradient))
    (ours, ours_gradient), (theirs, their_gradient), (exact, exact_gradient) = results
    if torch.float64 in (pred.dtype, target.dtype):
        theirs, their_gradient = exact, exact_gradient.to(pred.dtype)
    no_worse_than(ours, theirs, exact)
    no_worse_than(ours_gradient, their_gradient, exact_gradient)
    with torch.no_grad():
        assert torch.equal(ops.masked_smooth_l1(pred, target, rows, **options), ours)
    return ours_gradient


def losses_of_formats(dtype, target, beta, no_worse_than):
    pred, goal = make_layers(1, (2, 12, 40), dtype)[0], make_layers(1, (7, 40), target, 1)[0]
    for reduction in ("mean", "sum", "none"):
        options = {"beta": beta, "scale": 0.3, "reduction": reduction}
        incoming = torch.linspace(1, 2, 7) if reduction == "none" else torch.tensor(3.0)
        gradient = loss(pred, goal, ROWS, no_worse_than, incoming=incoming, **options)
        others = torch.ones(24, dtype=torch.bool).index_fill_(0, ROWS, False)
        assert not gradient.flatten(0, 1)[others].any(), "zero where there is no row"
        loss(pred.flatten(0, 1)[ROWS], goal, None, no_worse_than, incoming=incoming, **options)


def losses_of_layouts(no_worse_than):
    wide, goal = make_layers(1, (12, 2, 81), torch.bfloat16)[0], make_layers(1, (40, 7), torch.float32, 1)[0].T
    pred = wide[..., 1:].transpose(0, 1)[..., ::2]  # [2, 12, 40] with gaps, misaligned
    rows = torch.stack([ROWS, ROWS], 1)[:, 0]
    loss(pred, goal, rows, no_worse_than, beta=1.0)
    loss(pred.flatten(0, 1)[:7], goal, None, no_worse_than, beta=0.0)
    ones = torch.ones(()).expand(7)  # an incoming gradient of stride 0
    loss(pred, goal, rows, no_worse_than, beta=1.0, reduction="none", incoming=ones)
    loss(wide.flatten()[1:281].view(7, 40), goal, None, no_worse_than, beta=1.0)


def losses_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    for pred, rows in ((torch.randn(2, 3, 4), none), (torch.randn(0, 4), None)):
        for reduction in ("mean", "sum", "none"):
            leaf = pred.clone().requires_grad_()
            value = ops.masked_smooth_l1(leaf, torch.zeros(0, 4), rows, beta=1.0, reduction=reduction)
            assert value.shape == ((0,) if reduction == "none" else ())
            value.sum().backward()
            assert torch.equal(value.sum().detach(), torch.tensor(0.0))
            assert torch.equal(leaf.grad, torch.zeros_like(pred))
    leaf = torch.zeros(3, 0, requires_grad=True)
    value = ops.masked_smooth_l1(leaf, torch.zeros(3, 0), beta=1.0)
    value.backward()
    assert value == 0
    assert leaf.grad.shape == (3, 0)


def float16_does_not_underflow():
    pred = torch.full((2, 3), 0.5, dtype=torch.float16).requires_grad_()
    value = ops.masked_smooth_l1(pred, torch.zeros(2, 3), beta=1.0, scale=1e-7)
    (value * 65536).backward()
    torch.testing.assert_close(pred.grad, torch.full((2, 3), 0.5 * 1e-7 / 2 * 65536).half(), rtol=2e-3, atol=0)


# --- data2vec 2.0 ---


def restored(dtype):
    """Every place has its token or its noise, and the gradient goes back."""
    grid = make_layers(1, (3, 40, 70), dtype)[0].flatten(0, 1)
    for kept in ([], [0, 5, 6, 7, 119], list(range(0, 120, 3)), list(range(120))):
        hidden = [place for place in range(120) if place not in kept]
        places = torch.tensor(kept, dtype=torch.int64)
        tokens = grid[places].requires_grad_()
        out = ops.restore(tokens, places, grid[torch.tensor(hidden, dtype=torch.int64)], 3, 40)
        assert torch.equal(out.flatten(0, 1), grid)
        (gradient,) = torch.autograd.grad(out, tokens, 2 * out.detach())
        assert torch.equal(gradient, 2 * tokens.detach())


def close(ours, exact, dtype, units):
    """Within some units in the last place of the largest number."""
    atol = units * torch.finfo(dtype).eps * exact.abs().max().item()
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=atol)


def decoder_layers(dtype, size, kernel):
    for channels, width, groups in ((24, 24, 4), (24, 36, 4)):
        weights = make_layers(1, (width, channels // groups, kernel ** len(size)), dtype, 1)[0] / 8
        weight = weights.reshape(width, channels // groups, *[kernel] * len(size))
        bias, x = make_layers(1, (1, 1, width), dtype, 2)[0].flatten(), make_layers(1, (2, *size, channels), dtype)[0]
        gradient = make_layers(1, (2, *size, width), dtype, 3)[0] / 8
        results = []
        for function, wide in ((ops, dtype), (reference, torch.float64)):
            leaves = [part.detach().to(wide).requires_grad_() for part in (x, weight, bias)]
            y = function.decoder_layer(*leaves, groups, True)
            results.append((y.detach(), *torch.autograd.grad(y, leaves, gradient.to(wide))))
        for ours, exact in zip(*results, strict=True):
            assert ours.dtype == dtype
            close(ours, exact, dtype, 64)


def norm_and_gelu(dtype, rows, channels, no_worse_than):
    """Parameters of the format of x, and float32 ones, as under autocast; x with its rows apart, too."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, gradient = (part * 3 + 1 for part in make_layers(2, (2, rows, channels), dtype))
    parameters = make_layers(2, (1, 1, channels), wide, 1)
    for kind, given in ((dtype, x), (wide, x.transpose(0, 1).contiguous().transpose(0, 1))):
        results = []
        for function, own in ((ops, dtype), (reference, wide), (reference, torch.float64)):
            weight, bias = (part.flatten().to(kind).to(kind if function is ops else own) for part in parameters)
            leaves = [part.detach().requires_grad_() for part in (given.to(own), weight, bias)]
            y = function.norm_gelu(*leaves, 1e-5)
            results.append((y.detach(), *torch.autograd.grad(y, leaves, gradient.to(own))))
        for ours, theirs, exact in zip(*results, strict=True):
            no_worse_than(ours, theirs.to(ours.dtype), exact)


def attention(dtype, *, hidden, dim=20):
    """Packed sequences of 1, 37 and 20 tokens beside float64, one after the other."""
    heads, starts = 2, [0, 1, 38, 58]
    qkv, gradient = make_layers(1, (58, 3 * heads, dim), dtype)[0] / 4, make_layers(1, (58, heads, dim), dtype, 1)[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    positions, factors = torch.arange(58) * 3 - 1, torch.tensor([0.05, 0.2], dtype=wide)
    visible = (torch.arange(58) % 4 != 2) if hidden else None
    leaves = [qkv.view(58, 3, heads, dim).detach().requires_grad_(), factors.requires_grad_()]
    places = torch.tensor(starts, dtype=torch.int32)
    out = fused_attention(*leaves[0].unbind(1), places, positions, leaves[1], 37, visible=visible)
    results = [(out.detach(), *torch.autograd.grad(out, leaves, gradient))]
    exactly = [x.detach().double().requires_grad_() for x in leaves]
    parts = []
    for first, end in pairwise(starts):
        bias = Distances(exactly[1]).bias(positions[first:end])
        if visible is not None:
            bias = bias.masked_fill(~visible[first:end], -torch.inf)
        parts.append(reference.attention(*(x[None, first:end] for x in exactly[0].unbind(1)), bias[None])[0])
    out = torch.cat(parts)
    results.append((out.detach(), *torch.autograd.grad(out, exactly, gradient.double())))
    for ours, exact, units in zip(*results, (64, 64, 4096), strict=True):
        close(ours, exact, dtype, units)
