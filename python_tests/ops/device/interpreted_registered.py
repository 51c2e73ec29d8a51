"""What torch makes of the operators as a GPU has them: opcheck, whole graphs, autograd, autocast.

In this process the implementations for GPUs stand in the place of those for CPU tensors.
"""

from __future__ import annotations

import pytest
import torch
import triton_interpreter
from pretending import Pretended, module
from torch import library as checks

from d2v_fast import ops
from d2v_fast.ops.device import layer_targets, smooth_l1

B, T, C = 2, 6, 16
ROWS = torch.tensor([0, 2, 3, 7, 11])

instead = checks.Library("d2v_fast", "IMPL")
for name, function in {
    "ema_update_": module("ema")._on_gpu,
    "layer_targets": layer_targets.layer_targets,
    "smooth_l1_forward": module("smooth_l1")._forward_gpu,
    "smooth_l1_backward": smooth_l1.backward,
}.items():
    instead.impl(name, function, "CPU", allow_override=True)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    pretended = Pretended(monkeypatch, registered=True)
    pretended.memory = []
    pretended.with_triton(triton_interpreter.launch, pretended.memory)
    return pretended


def arguments(gpu, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    teacher, student = [randn(3, 4), randn(7)], [randn(3, 4), randn(7).bfloat16()]
    shadow = [torch.zeros(3, 4, dtype=torch.bfloat16), torch.zeros(7)]
    gpu.memory[:] = [*teacher, *student, *shadow]
    layers = [randn(B, T, C).to(dtype).transpose(0, 1).contiguous().transpose(0, 1) for _ in range(3)]
    return teacher, student, shadow, layers, randn(B, T, C).to(dtype).requires_grad_()


def step(teacher, student, shadow, layers, pred):
    targets = ops.layer_targets(layers, ROWS, layer_norm="instance", final_norm="layer")
    whole = ops.layer_targets(layers, layer_norm=("layer", "instance"))
    loss = ops.masked_smooth_l1(pred, targets, ROWS, beta=0.5, scale=2.0)
    ops.ema_update_(teacher, student, torch.tensor(0.9, dtype=torch.float64), shadow)
    return loss, targets, whole


KERNELS = ["column_statistics", "column_targets", "smooth_l1_forward", "ema_update", "ema_update"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_without_graph_breaks(gpu, dtype):
    expected_arguments = arguments(gpu, dtype)
    expected = step(*expected_arguments)
    expected[0].backward()
    assert gpu.launches == [*KERNELS, "smooth_l1_backward"]
    gpu.launches.clear()
    given = arguments(gpu, dtype)
    teacher, student, shadow = given[:3]
    update, lists = module("ema").device.update_, (teacher, student, shadow)

    def told(teacher, student, decay, shadow):  # functionalisation may copy what is mutated: the interpreter is told
        gpu.memory[:] = [*teacher, *student, *shadow]
        update(teacher, student, decay, shadow)

    gpu.patch.setattr(module("ema").device, "update_", told)
    ours = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=False)(*given)
    ours[0].backward()
    assert sorted(gpu.launches) == sorted([*KERNELS, "smooth_l1_backward"])
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    torch.testing.assert_close(given[-1].grad, expected_arguments[-1].grad, rtol=0, atol=0)
    for mine, theirs in zip(lists, expected_arguments, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_opcheck_targets(gpu):
    layers = arguments(gpu)[3]
    lengths = torch.tensor([6, 4])
    operator = torch.ops.d2v_fast.layer_targets.default
    for norms in ((["instance"], []), (["batch"], ["layer"]), (["layer"], []), ([], []), (["layer", "instance"], [])):
        checks.opcheck(operator, (layers, ROWS, None, *norms, 1e-5))
        checks.opcheck(operator, (layers, None, lengths, *norms, 1e-5))
    assert set(gpu.launches) == {"column_statistics", "column_targets", "merge_samples", "row_targets"}
    checks.opcheck(operator, ([layer.double() for layer in layers], None, None, ["instance"], [], 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_opcheck_loss(dtype, gpu):
    forward, backward = torch.ops.d2v_fast.smooth_l1_forward.default, torch.ops.d2v_fast.smooth_l1_backward.default
    full, gathered, target = torch.randn(B, T, C).to(dtype), torch.randn(5, C).to(dtype), torch.randn(5, C)
    for reduction in (0, 1, 2):
        for pred, index in ((full, ROWS), (gathered, None)):
            for with_gradient in (True, False):
                checks.opcheck(forward, (pred, target, index, 0.5, 2.0, reduction, with_gradient))
            loss, gradient = forward(pred, target, index, 0.5, 2.0, reduction, True)
            checks.opcheck(backward, (gradient, torch.ones_like(loss), index, 0.5, 2.0, reduction))
    assert set(gpu.launches) == (set() if dtype == torch.float64 else {"smooth_l1_forward", "smooth_l1_backward"})


def test_opcheck_moving_average(gpu):
    update = module("ema").device.update_

    def told(teacher, student, decay, shadow):
        gpu.memory[:] = [*teacher, *student, *shadow]
        update(teacher, student, decay, shadow)

    gpu.patch.setattr(module("ema").device, "update_", told)
    decay = torch.tensor(0.9, dtype=torch.float64)
    teacher, student, shadow = arguments(gpu)[:3]
    for copies in (shadow, []):
        checks.opcheck(torch.ops.d2v_fast.ema_update_.default, (teacher, student, decay, copies))
    assert set(gpu.launches) == {"ema_update"}


def test_what_autograd_saved_of_a_teacher_is_not_used_any_more(gpu):
    teacher, student = [torch.ones(3, requires_grad=True)], [torch.zeros(3)]
    gpu.memory[:] = [*teacher, *student]
    value = teacher[0].square().sum()
    with torch.no_grad():
        ops.ema_update_(teacher, student, 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_autocast_changes_nothing(gpu):
    *_, layers, pred = arguments(gpu)
    target = ops.layer_targets(layers, ROWS)
    expected = torch.autograd.grad(ops.masked_smooth_l1(pred, target, ROWS, beta=1.0), pred)[0]
    for kernels in (True, False):
        gpu.routes(triton=kernels)
        with torch.autocast("cpu", torch.bfloat16):
            again = ops.layer_targets(layers, ROWS)
            loss = ops.masked_smooth_l1(pred, target, ROWS, beta=1.0)
            inside = torch.autograd.grad(loss, pred, retain_graph=True)[0]
        assert (again.dtype, loss.dtype, inside.dtype) == (torch.float32,) * 3
        torch.testing.assert_close(again, target, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(inside, expected, rtol=1e-6, atol=0)


def adamw_lists(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    names = ("parameters", "gradients", "exp_avg", "exp_avg_sq", "teacher")
    lists = {name: [torch.rand(size, generator=generator, dtype=dtype) for size in (3, 1030, 0)] for name in names}
    lists["teacher"][0] = None
    return lists | {"steps": [torch.tensor(1.0) for _ in range(3)], "shadow": [None, torch.zeros(1030).half(), None]}


@pytest.mark.parametrize(("dtype", "launches"), [(torch.float32, 2), (torch.float64, 0)], ids=str)
def test_adamw(gpu, dtype, launches):
    """On a GPU as on a CPU; float64 has no kernel."""
    options = {"lr": [0.1, 0.2, 0.3], "weight_decay": 0.1, "betas": (0.9, 0.98), "eps": 1e-6, "decay": 0.9}
    ours, expected = adamw_lists(dtype), adamw_lists(dtype)
    ops.adamw_ema_(**expected, **options)
    gpu.patch.setattr(module("adamw_ema"), "_adamw_ema", module("adamw_ema")._on_gpu)
    gpu.memory[:] = [x for tensors in ours.values() for x in tensors if x is not None]
    gpu.capturing = True
    if launches:
        with pytest.raises(RuntimeError, match="addresses of gradients and learning rates are new at every step"):
            ops.adamw_ema_(**ours, **options)
    gpu.capturing = False
    ops.adamw_ema_(**ours, **options)
    assert gpu.launches == ["adamw_ema"] * launches
    for name, tensors in ours.items():
        for x, y in zip(tensors, expected[name], strict=True):
            if x is not None:
                torch.testing.assert_close(x, y, rtol=1e-3 if name == "shadow" else 2e-6, atol=1e-6)
    assert ours["steps"][0] == 2
