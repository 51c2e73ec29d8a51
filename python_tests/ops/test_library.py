"""The operators as torch sees them: opcheck, torch.compile, autocast, devices without a kernel, and backends()."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import _C, ops

B, T, C, K = 2, 6, 16, 3


@pytest.fixture
def rows():
    return torch.tensor([0, 2, 3, 7, 11])


def step(teacher, student, shadow, decay, layers, rows, pred):
    """All three operations, as a training step calls them."""
    targets = ops.layer_targets(layers, rows, layer_norm="instance", final_norm="layer")
    loss = ops.masked_smooth_l1(pred, targets, rows, beta=0.5, scale=2.0)
    ops.ema_update_(teacher, student, decay, shadow)
    return loss, targets


def arguments(rows, scale=1):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    return (
        [randn(3, 4), randn(7 * scale)],
        [randn(3, 4), randn(7 * scale).bfloat16()],
        [torch.zeros(3, 4, dtype=torch.bfloat16), torch.zeros(7 * scale)],
        torch.tensor(0.9, dtype=torch.float64),
        [randn(B * scale, T, C) for _ in range(K)],
        rows,
        randn(B * scale, T, C).requires_grad_(),
    )


def agree(compiled, rows, scale=1):
    expected_arguments, ours_arguments = arguments(rows, scale), arguments(rows, scale)
    expected, ours = step(*expected_arguments), compiled(*ours_arguments)
    for (loss, _), (*_, pred) in ((expected, expected_arguments), (ours, ours_arguments)):
        loss.backward()
        assert pred.grad is not None
    torch.testing.assert_close(ours_arguments[-1].grad, expected_arguments[-1].grad, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    for lists in (0, 1, 2):  # teacher, student and shadow afterwards
        torch.testing.assert_close(ours_arguments[lists], expected_arguments[lists], rtol=0, atol=0)


def test_compiled_without_graph_breaks(rows):
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=False)
    agree(compiled, rows)


def test_compiled_with_dynamic_shapes(rows):
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    agree(compiled, rows)
    agree(compiled, rows[:3], scale=3)
    agree(compiled, rows[:0], scale=2)


def test_compiled_by_inductor(rows):
    """The one inductor compilation of the whole test suite."""
    torch._dynamo.reset()
    agree(torch.compile(step, fullgraph=True), rows)


def test_compiled_with_a_float_decay(rows):
    """A Python number that changes at every step is traced, and taken in float64."""
    compiled = torch.compile(lambda t, s, decay: ops.ema_update_(t, s, decay), fullgraph=True, backend="aot_eager")
    for decay in (0.9, 0.99, 0.9999):
        teacher = [torch.zeros(5)]
        compiled(teacher, [torch.ones(5)], decay)
        assert torch.equal(teacher[0], torch.full((5,), 1 - decay))


@pytest.mark.parametrize("with_shadow", [False, True])
def test_opcheck_ema(with_shadow):
    flat = torch.zeros(20)
    teacher = [flat[:12].view(3, 4), flat[12:]]
    student = [torch.nn.Parameter(torch.ones(3, 4)), torch.ones(8, dtype=torch.bfloat16)]
    shadow = [torch.zeros(3, 4, dtype=torch.bfloat16), torch.zeros(8)] if with_shadow else []
    decay = torch.tensor(0.9, dtype=torch.float64)
    torch.library.opcheck(torch.ops.d2v_fast.ema_update_.default, (teacher, student, decay, shadow))


@pytest.mark.parametrize("with_shadow", [False, True])
def test_opcheck_adamw(with_shadow):
    def draw(*dtypes):
        return [torch.rand(3 + i, dtype=dtype) for i, dtype in enumerate(dtypes or (torch.float32,) * 2)]

    parameters = [torch.nn.Parameter(x) for x in draw()]
    shadow, owners = (draw(torch.bfloat16, torch.float16), [0, 1]) if with_shadow else ([], [])
    copy = ([torch.zeros(4, dtype=torch.float16)], [1]) if with_shadow else ([], [])
    numbers = [0.1, 0.2], [0.0, 0.1], 0.9, 0.98, 1e-6, torch.ones(()), torch.zeros(())
    lists = parameters, draw(), draw(), draw(), [torch.zeros(()) for _ in range(2)], draw()[1:], [1], shadow, owners
    arguments = *lists, *copy, *numbers, torch.tensor(0.9, dtype=torch.float64)
    torch.library.opcheck(torch.ops.d2v_fast.adamw_ema_.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_opcheck_smooth_l1(dtype, rows):
    forward, backward = torch.ops.d2v_fast.smooth_l1_forward.default, torch.ops.d2v_fast.smooth_l1_backward.default
    full, gathered, target = torch.randn(B, T, C).to(dtype), torch.randn(5, C).to(dtype), torch.randn(5, C)
    for reduction in (0, 1, 2):
        for pred, index in ((full, rows), (gathered, None)):
            for with_gradient in (True, False):
                torch.library.opcheck(forward, (pred, target, index, 0.5, 2.0, reduction, with_gradient))
            loss, gradient = forward(pred, target, index, 0.5, 2.0, reduction, True)
            torch.library.opcheck(backward, (gradient, torch.ones_like(loss), index, 0.5, 2.0, reduction))


def test_autocast_changes_nothing(rows):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(B, T, C, generator=generator).requires_grad_()
    target = torch.randn(5, C, generator=generator)
    expected = torch.autograd.grad(ops.masked_smooth_l1(pred, target, rows, beta=1.0), pred)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.masked_smooth_l1(pred, target, rows, beta=1.0)
        inside = torch.autograd.grad(loss, pred, retain_graph=True)[0]
    assert loss.dtype == torch.float32
    assert torch.equal(inside, expected)
    assert torch.equal(torch.autograd.grad(loss, pred)[0], expected)


def test_operators_check_what_they_are_given(rows):
    """Also when they are called without the Python functions around them."""
    tensor, half = torch.zeros(3), torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"teacher\[0\] and student\[0\] share memory"):
        torch.ops.d2v_fast.ema_update_([tensor], [tensor], half, [])
    with pytest.raises(IndexError, match=r"rows\[3\] is 7, outside of the 6"):
        torch.ops.d2v_fast.smooth_l1_forward(torch.zeros(1, T, C), torch.zeros(5, C), rows, 1.0, 1.0, 2, False)


def test_other_devices_get_shapes_and_errors():
    """The meta device stands for every device without a kernel: the wrappers check and plain torch runs."""
    pred = torch.zeros(2, 3, 4, device="meta")
    target, rows = torch.zeros(2, 4, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    assert ops.masked_smooth_l1(pred, target, rows, beta=1.0).device.type == "meta"
    with pytest.raises(ValueError, match="pred is on meta, target on cpu"):
        ops.masked_smooth_l1(pred, torch.zeros(2, 4), rows, beta=1.0)
    with pytest.raises(ValueError, match=r"student\[0\] is on cpu and teacher\[0\] on meta"):
        ops.ema_update_([torch.zeros(3, device="meta")], [torch.zeros(3)], 0.5)


def test_backends_name_the_code_and_the_reason():
    backends = ops.backends()
    compiled = {
        "adamw_ema_",
        "ema_update_",
        "layer_targets",
        "masked_smooth_l1",
        "restore",
        "decoder_layer",
        "fused_attention",
        "norm_gelu",
        "front_layer",
    }
    by_torch = {"attention", "gelu_linear", "linear", "strided_convolution"}
    assert set(backends) == compiled | by_torch
    for name, devices in backends.items():
        assert devices["cpu"].implementation
        assert devices["cuda"].implementation
        if name in compiled:
            assert devices["cpu"].implementation == f"compiled C++ ({_C.isa()})"
        if name in compiled - {"front_layer"}:  # which is two others there
            assert f"torch {torch.__version__}" in devices["cuda"].reason or torch.cuda.is_available()
    backends["ema_update_"].clear()
    assert ops.backends()["ema_update_"], "what is returned is a copy"


def test_public_names():
    for name in ops.__all__:
        assert callable(getattr(ops, name))
        assert name in ops.__all__
