"""The operations on a GPU: the cases that every route must get right, streams, devices, sizes beyond 32 bits, torch."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from cases import EMA, LAYOUTS
from torch import library as checks

from d2v_fast import ops, reference
from d2v_fast.ops.fused_attention import fused_attention

LOW = [torch.float32, torch.bfloat16, torch.float16]
NORMS = [None, "instance", "layer", "batch"]


@pytest.mark.parametrize("decay", [0.9, 0.0, 1.0])
@pytest.mark.parametrize("name", EMA)
def test_moving_average(cases, name, decay, no_worse_than):
    cases.ema(name, decay, no_worse_than)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ends_of_the_moving_average_are_exact(cases, decay):
    cases.ema_ends(decay)
    cases.ema_of_a_decay_tensor()


@pytest.mark.parametrize("norms", [*itertools.product(NORMS, NORMS), (("batch", "layer"), None)], ids=str)
@pytest.mark.parametrize("low", LOW, ids=str)
def test_targets(cases, low, norms, no_worse_than):
    cases.targets_of_all_norms(low, norms, no_worse_than)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_targets_of_layouts(cases, layout, norm, no_worse_than):
    cases.targets_of_a_layout(layout, norm, no_worse_than)


@pytest.mark.parametrize("norm", NORMS)
def test_targets_of_awkward_sizes(cases, norm, no_worse_than):
    cases.targets_of_awkward_sizes(norm, no_worse_than)
    cases.targets_of_nothing(norm)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_losses(cases, dtype, target, beta, no_worse_than):
    cases.losses_of_formats(dtype, target, beta, no_worse_than)


def test_losses_of_layouts_and_of_nothing(cases, no_worse_than):
    cases.losses_of_layouts(no_worse_than)
    cases.losses_of_nothing()
    cases.float16_does_not_underflow()


def test_restored_grids(cases, dtype):
    cases.restored(dtype)


@pytest.mark.parametrize(("size", "kernel"), [((9,), 3), ((9,), 4), ((4, 3), 3)], ids=str)
def test_decoder_layers(cases, dtype, size, kernel):
    cases.decoder_layers(dtype, size, kernel)


@pytest.mark.parametrize(("rows", "channels"), [(40, 20), (700, 512), (3, 37), (90, 1030)], ids=str)
def test_norm_and_gelu(device, cases, dtype, rows, channels, no_worse_than):
    if device.type == "cpu" and dtype in (torch.float16, torch.bfloat16):
        pytest.skip("16 bits on a CPU: ops/test_norm_gelu.py")
    cases.norm_and_gelu(dtype, rows, channels, no_worse_than)


@pytest.mark.parametrize("hidden", [False, True])
def test_attention_with_distances(cases, dtype, hidden):
    for dim in (20, 64, 128):
        cases.attention(dtype, hidden=hidden, dim=dim)


def test_dropped_weights_are_those_of_the_cpu(device):
    results = []
    for place in (device, torch.device("cpu")):
        generator = torch.Generator().manual_seed(0)
        qkv = torch.randn(57, 3, 2, 16, generator=generator).to(place).requires_grad_()
        starts = torch.tensor([0, 40, 57], dtype=torch.int32, device=place)
        torch.manual_seed(5)
        positions, factors = torch.arange(57, device=place), torch.tensor([0.1, 0.2], device=place)
        out = fused_attention(*qkv.unbind(1), starts, positions, factors, 40, dropout=0.3)
        results.append((out.detach(), torch.autograd.grad(out.square().sum(), qkv)[0]))
    agree(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "frames"), [(2, 9000), (65, 50)], ids=["frames that fill no shared memory", "layers"]
)
def test_targets_beyond_the_limits_of_the_cuda_kernel(device, count, frames):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, frames, 64, generator=generator).to(device) for _ in range(count)]
    rows = torch.arange(0, 2 * frames, 7, device=device)
    exact = reference.layer_targets([layer.double() for layer in layers], rows)
    torch.testing.assert_close(ops.layer_targets(layers, rows).double(), exact, rtol=1e-5, atol=1e-5)


def test_every_gpu_runs_what_was_built(gpu):
    _cuda = pytest.importorskip("d2v_fast._cuda", reason="installed without nvcc: no CUDA C++ kernels")
    assert [_cuda.unusable(index) for index in range(torch.cuda.device_count())] == [None] * torch.cuda.device_count()


# --- streams and devices ----------------------------------------------------------------------------------------------


def problem(device, seed=0, batch=3, frames=50, channels=96):
    """Tensors of one training step on `device`."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator).to(device)

    rows = torch.arange(0, batch * frames, 3).to(device)
    return {
        "teacher": [randn(40, 30), randn(1000)],
        "student": [randn(40, 30), randn(1000)],
        "layers": [randn(batch, frames, channels) for _ in range(3)],
        "pred": randn(batch, frames, channels).requires_grad_(),
        "rows": rows,
    }


def step(teacher, student, layers, pred, rows):
    """All operations once: targets, loss, gradient, teacher."""
    targets = ops.layer_targets(layers, rows, final_norm="layer")
    loss = ops.masked_smooth_l1(pred, targets, rows, beta=0.5)
    (gradient,) = torch.autograd.grad(loss, pred)
    ops.ema_update_(teacher, student, 0.9)
    return [targets, loss.detach(), gradient, *teacher]


@contextlib.contextmanager
def beside(device):
    """Work on a stream beside the current one, which is waited for at both ends; nothing of the kind on a CPU."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def agree(ours, wanted, **tolerance):
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), **tolerance)


def test_the_same_as_on_the_cpu(device):
    agree(step(**problem(device)), step(**problem(torch.device("cpu"))), rtol=1e-5, atol=1e-5)


def test_the_same_bits_on_any_stream_and_every_run(device):
    wanted = step(**problem(device))
    for _ in range(3):
        tensors = problem(device)
        with beside(device):
            ours = step(**tensors)
        agree(ours, wanted, rtol=0, atol=0)


def test_a_slow_stream_is_not_overtaken(gpu):
    """The operations wait for what is queued on their own stream: inputs are made there, late."""
    tensors = problem(gpu)
    wanted = ops.layer_targets(tensors["layers"], tensors["rows"])
    late = [torch.zeros_like(layer) for layer in tensors["layers"]]
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        torch._foreach_copy_(late, tensors["layers"])
        ours = ops.layer_targets(late, tensors["rows"])
    torch.cuda.current_stream(gpu).wait_stream(stream)
    assert torch.equal(ours, wanted)


def test_tensors_of_a_device_that_is_not_current(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    wanted = step(**problem(gpu))
    other = torch.device("cuda", 1)
    tensors = problem(other)
    with torch.cuda.device(0):
        ours = step(**tensors)
        assert torch.cuda.current_device() == 0
    agree(ours, wanted, rtol=1e-5, atol=1e-5)
    spread = [torch.zeros(5, device=gpu), torch.zeros(7, device=other)]
    ops.ema_update_(spread, [torch.ones(5, device=gpu), torch.ones(7, device=other)], 0.5)
    assert [tensor.unique().tolist() for tensor in spread] == [[0.5], [0.5]]


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(device):
    """A number of elements that 32 bits cannot count, and no more on a CPU than show that the test is right."""
    if device.type == "cpu":
        return 70_144
    needed, free = 40 << 30, torch.cuda.mem_get_info(device)[0]
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free GPU memory, there are {free >> 30}")
    return (1 << 31) + 4096


def test_moving_average_of_many_elements(device, many):
    teacher = torch.zeros(many, device=device)
    student = torch.ones(many, device=device, dtype=torch.bfloat16)
    student[-3:] = 2
    ops.ema_update_([teacher], [student], 0.5)
    assert teacher[:4].tolist() == [0.5] * 4
    assert teacher[-4:].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert teacher.min() == 0.5


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_targets_of_many_elements(device, many, norm):
    channels = 64
    layer = torch.zeros(4, many // 4 // channels, channels, device=device, dtype=torch.bfloat16)
    layer[3, -2:] = torch.arange(2 * channels, device=device).view(2, channels).bfloat16()
    rows = torch.tensor([0, many // channels - 2, many // channels - 1], device=device)
    ours = ops.layer_targets([layer], rows, layer_norm=norm)
    small = layer[3:, -1000:].double() if norm == "layer" else layer[3:].double()
    exact = reference.layer_targets([small], layer_norm=norm)[0, -2:]
    torch.testing.assert_close(ours[1:].double(), exact, rtol=1e-4, atol=1e-4)
    assert not ours[0].any()


def test_loss_of_many_elements(device, many):
    channels = 64
    pred = torch.zeros(1, many // channels, channels, device=device, dtype=torch.bfloat16).requires_grad_()
    rows = torch.tensor([1, many // channels - 1], device=device)
    loss = ops.masked_smooth_l1(pred, torch.full((2, channels), -2.0, device=device), rows, beta=1.0)
    (gradient,) = torch.autograd.grad(loss, pred)
    assert loss.item() == 1.5 * channels
    assert gradient[0, 1].tolist() == gradient[0, -1].tolist() == [0.5] * channels
    assert not gradient[0, 2:-1].any()


# --- as torch sees them -----------------------------------------------------------------------------------------------


def test_opcheck(device):
    tensors, library = problem(device, batch=2, frames=6, channels=16), torch.ops.d2v_fast
    rows, pred = tensors["rows"], tensors["pred"].detach()
    decay = torch.tensor(0.9, dtype=torch.float64, device=device)
    shadow = [torch.zeros_like(value, dtype=torch.bfloat16) for value in tensors["teacher"]]
    checks.opcheck(library.ema_update_.default, (tensors["teacher"], tensors["student"], decay, shadow))
    for norms in (["instance"], ["layer"]):
        checks.opcheck(library.layer_targets.default, (tensors["layers"], rows, None, norms, ["layer"], 1e-5))
    target = torch.zeros(len(rows), 16, device=device)
    checks.opcheck(library.smooth_l1_forward.default, (pred, target, rows, 0.5, 2.0, 2, True))
    loss, gradient = library.smooth_l1_forward(pred, target, rows, 0.5, 2.0, 2, True)
    arguments = (gradient, torch.ones_like(loss), rows, 0.5, 2.0, 2)
    checks.opcheck(library.smooth_l1_backward.default, arguments)


def test_compiled_without_graph_breaks(device):
    torch._dynamo.reset()
    backend = "inductor" if device.type == "cuda" else "aot_eager"  # one compilation for a CPU is in python_tests/ops

    def whole(teacher, student, layers, pred, rows):
        targets = ops.layer_targets(layers, rows, final_norm="layer")
        loss = ops.masked_smooth_l1(pred, targets, rows, beta=0.5)
        ops.ema_update_(teacher, student, 0.9)
        return loss

    tensors, wanted = problem(device), step(**problem(device))
    loss = torch.compile(whole, fullgraph=True, backend=backend)(**tensors)
    (gradient,) = torch.autograd.grad(loss, tensors["pred"])
    agree([loss.detach(), gradient, *tensors["teacher"]], wanted[1:], rtol=1e-6, atol=1e-7)


def test_autocast_changes_nothing(device):
    wanted = step(**problem(device))
    with torch.autocast(device.type, torch.bfloat16):
        agree(step(**problem(device)), wanted, rtol=0, atol=0)


def test_backends_say_what_serves_the_gpu(gpu):
    for operation, devices in ops.backends().items():
        assert devices["cuda"].implementation, operation
        assert devices["cuda"].reason, operation


def test_bad_rows_are_found_in_debug_mode(gpu, monkeypatch):
    monkeypatch.setenv("D2V_FAST_DEBUG", "1")
    with pytest.raises(IndexError, match=r"rows\[1\] is 900, outside of the 150"):
        ops.layer_targets(problem(gpu)["layers"], torch.tensor([0, 900], device=gpu))
