"""The loss equals the sum over all alignments, and impossible targets do nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from d2v_fast.finetuning.ctc import needed_frames
from d2v_fast.finetuning.ctc_loss import Targets, ctc_loss, learnable, needed


def collapsed(path):
    return [token for token, _ in itertools.groupby(path) if token != 0]


def by_hand(log_probs, target):
    """-ln of the sum over all paths of log_probs [T, K] that mean the target."""
    paths = itertools.product(range(log_probs.shape[1]), repeat=len(log_probs))
    scores = [sum(log_probs[t, k] for t, k in enumerate(path)) for path in paths if collapsed(path) == target]
    return -torch.logsumexp(torch.stack(scores), 0)


def logits(count=3, frames=4, symbols=3):
    return torch.randn(count, frames, symbols, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_it_is_a_sum_over_alignments():
    x = logits()
    targets, frames = [[1], [2, 2], [1, 2]], torch.tensor([4, 3, 2])
    given = Targets.of(targets)
    loss = ctc_loss(x, frames, given.labels, given.lengths, torch.ones(3, dtype=torch.bool))
    wanted = sum(by_hand(x[i, : frames[i]].log_softmax(1), targets[i]) for i in range(3))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours = torch.autograd.grad(loss, x)[0]
    theirs = torch.autograd.grad(wanted, x)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_left_out():
    x = logits(4)
    given = Targets.of([[1, 1], [1, 2], None, [2]])
    frames = torch.tensor([2, 4, 4, 0])  # 1 1 needs a blank between
    fits = learnable(given.labels, given.lengths, frames, 3)
    assert fits.tolist() == [False, True, False, False]
    assert not learnable(given.labels, given.lengths, frames, 2).any()  # 2 is a character without a symbol then
    loss = ctc_loss(x, frames, given.labels, given.lengths, fits)
    alone = ctc_loss(x[1:2], frames[1:2], given.labels[1:2], given.lengths[1:2], fits[1:2])
    assert loss.item() == pytest.approx(alone.item())
    loss.backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[[0, 2, 3]] == 0).all()
    assert (x.grad[1] != 0).any()


def test_a_batch_without_a_target_has_a_gradient_of_zero():
    x = logits(1)
    given = Targets.of([None])
    loss = ctc_loss(x, torch.tensor([4]), given.labels, given.lengths, torch.tensor([False]))
    loss.backward()
    assert loss.item() == 0
    assert (x.grad == 0).all()


def test_padding_changes_nothing():
    x = logits(2)
    given = Targets.of([[1], [2]])
    frames = torch.tensor([2, 3])
    fits = torch.ones(2, dtype=torch.bool)
    loss = ctc_loss(x, frames, given.labels, given.lengths, fits)
    changed = x.detach().clone()
    changed[0, 2:] = 50
    longer = torch.cat([given.labels, torch.ones(2, 2, dtype=torch.int64)], dim=1)
    assert ctc_loss(changed, frames, longer, given.lengths, fits).item() == loss.item()


def test_half_precision_outputs_are_summed_in_float32():
    x = logits().detach()
    given = Targets.of([[1], [2, 2], [1, 2]])
    frames, fits = torch.tensor([4, 3, 2]), torch.ones(3, dtype=torch.bool)
    half = ctc_loss(x.bfloat16(), frames, given.labels, given.lengths, fits)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(
        ctc_loss(x.bfloat16().float(), frames, given.labels, given.lengths, fits).item()
    )


def test_needed_frames_of_many_are_those_of_each():
    tokens = [[1, 1, 1, 2], [2], [], [1, 2, 2]]
    given = Targets.of(tokens)
    assert needed(given.labels, given.lengths).tolist() == [needed_frames(each) if each else 0 for each in tokens]
