"""Tensors of a GPU without data: shapes, dtypes and devices of results, and whole graphs, need no GPU."""

from __future__ import annotations

import pytest
import torch
from pretending import module
from torch._subclasses.fake_tensor import FakeTensorMode

from d2v_fast import ops
from d2v_fast.ops.device import routes
from d2v_fast.ops.fused_attention import fused_attention

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA device")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ["instance", ("layer", "instance"), None], ids=str)
def test_targets(norm, dtype):
    with FakeTensorMode():
        layers = [torch.empty(6, 2, 16, device="cuda", dtype=dtype).transpose(0, 1) for _ in range(3)]
        rows = torch.empty(5, device="cuda", dtype=torch.int64)
        for given, shape in ((rows, (5, 16)), (None, (2, 6, 16))):
            out = ops.layer_targets(layers, given, layer_norm=norm)
            assert out.shape == shape
            assert out.device == torch.device("cuda", 0)
            assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert out.is_contiguous()


def test_loss():
    with FakeTensorMode():
        pred = torch.empty(2, 6, 16, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        target, rows = torch.empty(5, 16, device="cuda"), torch.empty(5, device="cuda", dtype=torch.int64)
        for reduction, shape in (("mean", ()), ("none", (5,))):
            loss = ops.masked_smooth_l1(pred, target, rows, beta=1.0, reduction=reduction)
            assert (loss.shape, loss.dtype, loss.requires_grad) == (shape, torch.float32, True)
            assert loss.device == torch.device("cuda", 0)
            (gradient, kept) = loss.grad_fn.saved_tensors
            assert (gradient.shape, gradient.dtype, kept.shape) == (pred.shape, pred.dtype, rows.shape)


def test_data2vec_2():
    with FakeTensorMode():
        gpu = torch.device("cuda", 0)
        tokens, noise = torch.empty(5, 16, device=gpu, requires_grad=True), torch.empty(7, 16, device=gpu)
        grid = ops.restore(tokens, torch.empty(5, dtype=torch.int64, device=gpu), noise, 2, 6)
        weight, bias = torch.empty(8, 4, 3, device=gpu), torch.empty(8, device=gpu)
        y = ops.decoder_layer(grid, weight, bias, 4, True)
        qkv = torch.empty(12, 3, 2, 4, device=gpu, dtype=torch.bfloat16, requires_grad=True)
        numbers = torch.empty(3, dtype=torch.int32, device=gpu), torch.empty(12, dtype=torch.int64, device=gpu)
        mixed = fused_attention(*qkv.unbind(1), *numbers, torch.empty(2, device=gpu), 6)
        for found, shape, dtype in (
            (grid, (2, 6, 16), torch.float32),
            (y, (2, 6, 8), torch.float32),
            (mixed, (12, 2, 4), torch.bfloat16),
        ):
            assert (found.shape, found.dtype, found.device) == (shape, dtype, gpu)
            assert found.requires_grad


@pytest.mark.parametrize(("dtype", "triton"), [("bfloat16", None), ("float64", None), ("float32", "not here")])
def test_norm_and_gelu(dtype, triton, monkeypatch):
    """What has no kernel is torch's, which keeps the result of the norm."""
    monkeypatch.setattr(routes, "obstacles", lambda device: routes.Obstacles("not here", triton))
    with FakeTensorMode():
        x = torch.empty(2, 6, 16, device="cuda", dtype=getattr(torch, dtype), requires_grad=True)
        kind = torch.float64 if dtype == "float64" else torch.float32
        weight, bias = (torch.empty(16, device="cuda", dtype=kind, requires_grad=True) for _ in range(2))
        y = ops.norm_gelu(x, weight, bias)
        assert (y.shape, y.dtype, y.device, y.requires_grad) == (x.shape, x.dtype, x.device, True)
        ours = "norm_gelu" in type(y.grad_fn).__name__
        assert ours == (dtype == "bfloat16")
        with module("norm_gelu").earlier_norm_gelu_of_gpus():
            assert "norm_gelu" not in type(ops.norm_gelu(x.to(kind), weight, bias).grad_fn).__name__
        if ours:
            *_, statistics = y.grad_fn.saved_tensors
            assert (statistics.shape, statistics.dtype) == ((2, 12), torch.float32)


def test_moving_average():
    with FakeTensorMode():
        teacher = [torch.empty(3, 4, device="cuda")]
        ops.ema_update_(teacher, [torch.empty(3, 4, device="cuda", dtype=torch.bfloat16)], 0.5)
        ops.ema_update_(
            teacher,
            teacher[:0] or [torch.empty(3, 4, device="cuda")],
            torch.empty((), dtype=torch.float64, device="cuda"),
        )
        with pytest.raises(ValueError, match=r"student\[0\] is on cpu and teacher\[0\] on cuda:0"):
            ops.ema_update_(teacher, [torch.empty(3, 4)], 0.5)


def test_the_backward_pass_does_not_look_at_the_incoming_gradient():
    with FakeTensorMode():  # which cannot be looked at: a fake number has no value
        gradient, incoming = torch.empty(3, 4, device="cuda"), torch.ones((), device="cuda")
        assert not module("smooth_l1")._is_final(gradient, incoming)


def test_one_graph():
    graphs = []

    def step(layers, rows, pred, teacher, student, decay):
        targets = ops.layer_targets(layers, rows, layer_norm="instance", final_norm="layer")
        loss = ops.masked_smooth_l1(pred, targets, rows, beta=0.5)
        ops.ema_update_(teacher, student, decay)
        return loss

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with FakeTensorMode(allow_non_fake_inputs=True):
        layers, pred = [torch.empty(2, 6, 16, device="cuda") for _ in range(2)], torch.empty(2, 6, 16, device="cuda")
        rows, decay = torch.empty(5, device="cuda", dtype=torch.int64), torch.empty((), device="cuda").double()
        pair = [torch.empty(3, device="cuda")], [torch.empty(3, device="cuda")]
        loss = torch.compile(step, fullgraph=True, backend=keep)(layers, rows, pred, *pair, decay)
    assert loss.device == torch.device("cuda", 0)
    called = [str(node.target) for graph in graphs for node in graph.graph.nodes if "d2v_fast" in str(node.target)]
    assert called == [
        "d2v_fast.layer_targets.default",
        "d2v_fast.smooth_l1_forward.default",
        "d2v_fast.ema_update_.default",
    ]
