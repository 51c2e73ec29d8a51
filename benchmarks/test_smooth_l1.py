"""The loss of the masked positions, forward and backward, at data2vec Base: [8, 400, 768], half of them, float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d2v_fast import ops

BETA = 0.25


@pytest.fixture
def case(quick):
    """pred [B, T, C], target [M, C], rows [M] and the same as a mask [B, T]."""
    batch, frames, channels = (2, 20, 48) if quick else (8, 400, 768)
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(batch, frames, channels, generator=generator).requires_grad_()
    rows = torch.randperm(batch * frames, generator=generator)[: batch * frames // 2].sort().values
    target = torch.randn(rows.numel(), channels, generator=generator)
    mask = torch.zeros(batch * frames, dtype=torch.bool)
    mask[rows] = True
    return pred, target, rows, mask.view(batch, frames)


def backward(loss, pred):
    return lambda: torch.autograd.grad(loss(), pred)


@pytest.mark.benchmark(group="smooth_l1")
def test_full_gradient(case, compare, compiled, size_of):
    pred, target, rows, mask = case
    full_target = torch.zeros_like(pred, requires_grad=False)
    full_target[mask] = target

    def by_mask(x, y, mask):
        return F.smooth_l1_loss(x[mask], y[mask], reduction="none", beta=BETA).sum(dim=-1).mean()

    def by_rows(x, target, rows):
        return F.smooth_l1_loss(x.flatten(0, 1)[rows], target, reduction="none", beta=BETA).sum(dim=-1).mean()

    def by_where(x, y, mask):
        loss = F.smooth_l1_loss(x, y, reduction="none", beta=BETA)
        return torch.where(mask[..., None], loss, 0).sum() / mask.sum()

    compiled_rows, compiled_where = compiled(by_rows), compiled(by_where)
    compare(
        f"smooth-L1, {list(pred.shape)}, {rows.numel()} rows, full gradient",
        backward(lambda: ops.masked_smooth_l1(pred, target, rows, beta=BETA), pred),
        {
            "eager, x[mask] and y[mask]": backward(lambda: by_mask(pred, full_target, mask), pred),
            "eager, x[rows]": backward(lambda: by_rows(pred, target, rows), pred),
            "torch.compile, x[rows]": backward(lambda: compiled_rows(pred, target, rows), pred),
            "torch.compile, where(mask) over everything": backward(
                lambda: compiled_where(pred, full_target, mask), pred
            ),
        },
        moved=2 * size_of(target) + size_of(pred),
        rounds=60,
    )


@pytest.mark.benchmark(group="smooth_l1")
def test_gathered(case, compare, compiled, size_of):
    full, target, rows, _ = case
    pred = full.detach().flatten(0, 1)[rows].requires_grad_()

    def by_row(x, y):
        return F.smooth_l1_loss(x, y, reduction="none", beta=BETA).sum(dim=-1).mean()

    def summed(x, y):
        return F.smooth_l1_loss(x, y, reduction="sum", beta=BETA) / x.shape[0]

    compiled_by_row, compiled_summed = compiled(by_row), compiled(summed)
    compare(
        f"smooth-L1, {list(pred.shape)}, rows gathered before",
        backward(lambda: ops.masked_smooth_l1(pred, target, beta=BETA), pred),
        {
            "eager, row by row (fairseq)": backward(lambda: by_row(pred, target), pred),
            'eager, reduction="sum"': backward(lambda: summed(pred, target), pred),
            "torch.compile, row by row": backward(lambda: compiled_by_row(pred, target), pred),
            'torch.compile, reduction="sum"': backward(lambda: compiled_summed(pred, target), pred),
        },
        moved=3 * size_of(pred),
        rounds=60,
    )
