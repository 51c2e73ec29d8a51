"""CUDA graphs: each operation is captured once and replayed on other numbers; on a CPU it is simply called again."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import ops


def record(device, function):
    """A function that does again what `function` did, on the same memory: a graph's replay on a GPU."""
    if device.type != "cuda":
        return function
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(2):  # compilation, tables, allocations
            function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def randn(device, *shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def test_moving_average_with_a_decay_that_changes(device):
    shapes = [(40, 30), (5,), (70_000,)]
    teacher = [randn(device, *shape, seed=1) for shape in shapes]
    start = [value.clone() for value in teacher]
    student = [torch.zeros(shape, device=device, dtype=torch.bfloat16) for shape in shapes]
    shadow = [torch.zeros(shape, device=device, dtype=torch.bfloat16) for shape in shapes]
    decay = torch.ones((), dtype=torch.float64, device=device)
    replay = record(device, lambda: ops.ema_update_(teacher, student, decay, shadow))
    torch._foreach_copy_(teacher, start)  # what warm-up and capture did
    expected = [value.clone() for value in start]
    for seed, value in enumerate((0.9, 0.0, 0.99, 1.0)):
        for tensor in student:
            tensor.copy_(randn(device, *tensor.shape, seed=10 + seed))
        decay.fill_(value)
        replay()
        ops.ema_update_(expected, student, value)
        for ours, mean, copy in zip(teacher, expected, shadow, strict=True):
            assert torch.equal(ours, mean)
            assert torch.equal(copy, mean.bfloat16())


@pytest.mark.parametrize("norm", ["instance", "layer", "batch", None])
def test_targets(device, norm):
    layers = [torch.zeros(2, 30, 64, device=device, dtype=torch.bfloat16) for _ in range(3)]
    rows, out = torch.arange(0, 60, 4, device=device), torch.zeros(15, 64, device=device)
    lengths = torch.tensor([30, 30], device=device)
    replay = record(device, lambda: out.copy_(ops.layer_targets(layers, rows, layer_norm=norm, lengths=lengths)))
    for seed in range(3):
        for k, layer in enumerate(layers):
            layer.copy_(randn(device, *layer.shape, seed=7 * seed + k))
        rows.copy_(torch.arange(15) * 4 + seed)
        lengths.copy_(torch.tensor([30, 30 - seed]))
        replay()
        wanted = ops.layer_targets(layers, rows, layer_norm=norm, lengths=lengths)
        assert torch.equal(out, wanted)
        assert wanted.any()


@pytest.mark.parametrize("low", [torch.float32, torch.float16], ids=str)
def test_loss_with_its_gradient(device, low):
    pred = torch.zeros(2, 30, 64, device=device, dtype=low, requires_grad=True)
    target, rows = torch.zeros(15, 64, device=device), torch.arange(0, 60, 4, device=device)
    scale = torch.ones((), device=device)
    loss, gradient = torch.zeros((), device=device), torch.zeros_like(pred)

    def run():
        value = ops.masked_smooth_l1(pred, target, rows, beta=0.5)
        loss.copy_(value.detach())
        gradient.copy_(torch.autograd.grad(value * scale, pred)[0])

    replay = record(device, run)
    for seed in range(3):
        with torch.no_grad():
            pred.copy_(randn(device, *pred.shape, seed=seed))
        target.copy_(randn(device, *target.shape, seed=9 + seed))
        scale.fill_(2.0**seed)
        replay()
        value = ops.masked_smooth_l1(pred, target, rows, beta=0.5)
        assert torch.equal(loss, value.detach())
        assert torch.equal(gradient, torch.autograd.grad(value * 2.0**seed, pred)[0])


def test_a_capture_without_a_table_is_refused(gpu):
    """The table of addresses is made by a copy from the host, which no graph can hold."""
    teacher, student = [torch.zeros(100, device=gpu)], [torch.ones(100, device=gpu)]
    ops.ema_update_(teacher, student, 0.5)
    moved, decay = [teacher[0].clone()], torch.full((), 0.5, dtype=torch.float64, device=gpu)
    if "plain torch: everything" in ops.backends()["ema_update_"]["cuda"].implementation:
        pytest.skip("no kernel serves this GPU, and plain torch needs no table")
    refused = pytest.raises(RuntimeError, match=r"table of addresses .*call it once with the same tensors")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        ops.ema_update_(moved, student, decay)
    ops.ema_update_(moved, student, decay)  # the table is made outside of a capture
    replay = record(gpu, lambda: ops.ema_update_(moved, student, decay))
    moved[0].zero_()
    replay()
    assert torch.equal(moved[0], torch.full((100,), 0.5, device=gpu))
