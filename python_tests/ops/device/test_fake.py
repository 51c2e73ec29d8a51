"""Tensors of a GPU without data: shapes, dtypes and devices of results, and whole graphs, need no GPU."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from d2v_fast import ops

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
