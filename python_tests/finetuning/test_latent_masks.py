"""Masks on local features: pure functions of seed, step and micro-batch, in frames and channels."""

from __future__ import annotations

import torch

from d2v_fast.finetuning.latent_masks import channel_mask, hide, time_mask
from d2v_fast.masking import SpanMask

SPANS = SpanMask(probability=0.5, length=4, min_spans=0)


def test_the_same_step_has_the_same_mask_and_no_other_has():
    shape = (3, 64)
    first = time_mask(SPANS, None, shape, 1, 5, 0)
    assert torch.equal(first, time_mask(SPANS, None, shape, 1, 5, 0))
    for other in ((2, 5, 0), (1, 6, 0), (1, 5, 1)):
        assert not torch.equal(first, time_mask(SPANS, None, shape, *other))
    assert not torch.equal(first, channel_mask(SPANS, shape, 1, 5, 0))
    assert 0.2 < first.float().mean() < 0.6


def test_padding_is_not_masked():
    mask = time_mask(SPANS, torch.tensor([64, 20]), (2, 64), 0, 0, 0)
    assert mask[1, :20].any()
    assert not mask[1, 20:].any()


def test_nothing_is_masked_with_a_probability_of_zero():
    nothing = SpanMask(probability=0.0, length=4, min_spans=0)
    assert time_mask(nothing, None, (2, 8), 0, 0, 0) is None
    assert channel_mask(nothing, (2, 8), 0, 0, 0) is None
    local = torch.ones(2, 8, 4)
    assert hide(local, None, None, torch.zeros(4)) is local


def test_frames_become_the_token_and_channels_zero():
    local = torch.ones(1, 4, 3)
    time = torch.tensor([[False, True, False, True]])
    channels = torch.tensor([[False, False, True]])
    token = torch.tensor([5.0, 6.0, 7.0], requires_grad=True)
    found = hide(local, time, channels, token)
    assert found[0].tolist() == [[1, 1, 0], [5, 6, 0], [1, 1, 0], [5, 6, 0]]
    found.sum().backward()
    assert token.grad.tolist() == [2, 2, 0]
