"""The loss of the masked positions on a GPU, forward and backward, at data2vec Base: [8, 400, 768], half of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops

BETA = 0.25


def by_row(pred, target):
    """The released code's form."""
    return F.smooth_l1_loss(pred.float(), target, reduction="none", beta=BETA).sum(dim=-1).mean()


def summed(pred, target):
    return F.smooth_l1_loss(pred.float(), target, reduction="sum", beta=BETA) / pred.shape[0]


class GradientInForward(torch.autograd.Function):
    """The way of Liger-Kernel in plain torch: the gradient is made in the forward pass, the backward pass scales it."""

    @staticmethod
    def forward(ctx, pred, target):
        distance = pred.float() - target
        slope = (distance / BETA).clamp(-1, 1)
        ctx.save_for_backward((slope / pred.shape[0]).to(pred.dtype))
        return (slope * (distance - 0.5 * BETA * slope)).sum() / pred.shape[0]

    @staticmethod
    def backward(ctx, incoming):
        return ctx.saved_tensors[0] * incoming, None


@pytest.mark.benchmark(group="gpu smooth_l1")
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=str)
def test_gathered(compare_on_gpu, compiled, rotate, gpu, quick, low):
    count, channels = (20, 48) if quick else (1600, 768)
    moved = count * channels * (4 + 2 * low.itemsize)

    def make(seed):
        generator = torch.Generator(gpu).manual_seed(seed)
        pred, target = (torch.randn(count, channels, generator=generator, device=gpu) for _ in range(2))
        return pred.to(low).requires_grad_(), target

    sets = rotate(make, moved)

    def each(function):
        def run(turn):
            pred, target = sets[turn % len(sets)]
            return torch.autograd.grad(function(pred, target), pred)[0]

        return run

    functions = {
        "row by row (fairseq)": by_row,
        'reduction="sum"': summed,
        "gradient in the forward pass (Liger)": GradientInForward.apply,
    }
    ours = each(lambda pred, target: ops.masked_smooth_l1(pred, target, beta=BETA))
    for function in functions.values():
        torch.testing.assert_close(ours(0), each(function)(0), rtol=1e-2, atol=1e-6)
    baselines = {f"eager, {name}": each(function) for name, function in functions.items()}
    for name in ("row by row (fairseq)", 'reduction="sum"'):
        baselines[f"torch.compile, {name}"] = each(compiled(functions[name]))
    compare_on_gpu(f"smooth-L1, {[count, channels]}, {low}".replace("torch.", ""), ours, baselines, moved=moved)
