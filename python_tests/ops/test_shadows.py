"""Copies of weights in bfloat16: always the weight's numbers, whoever wrote it, and made anew only where needed."""

from __future__ import annotations

import gc

import pytest
import torch

from d2v_fast.ops import adamw_ema_, shadows
from d2v_fast.ops.shadows import forget_shadows, keep_shadows, rounded, shadows_of, shadows_written


@pytest.fixture
def weight():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5, 7))
    keep_shadows([parameter])
    return parameter


def is_current(weight):
    return torch.equal(rounded(weight), weight.detach().bfloat16())


def test_a_copy_is_made_once_and_again_after_every_write(weight):
    assert shadows_of([weight]) == [None]
    assert is_current(weight)
    (copy,) = shadows_of([weight])
    copy.fill_(7)  # who looks again finds the same copy
    assert (rounded(weight) == 7).all()
    with torch.no_grad():
        weight.mul_(2)
    assert is_current(weight)
    weight.data = torch.randn(5, 7)
    assert is_current(weight)
    weight.data = torch.randn(3, 2)
    assert is_current(weight)
    torch.nn.init.zeros_(weight)
    assert is_current(weight)


def test_the_update_writes_the_copy_with_its_weight(weight):
    copy = rounded(weight).data_ptr()
    moments = [torch.zeros_like(weight) for _ in range(2)]
    lists = [[weight], [torch.randn(5, 7)], *[[moment] for moment in moments], [torch.zeros(())]]
    adamw_ema_(*lists, lr=0.1, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8, shadow=shadows_of([weight]))
    shadows_written([weight])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "copy_", None)  # it is not made again
        assert rounded(weight).data_ptr() == copy
    assert is_current(weight)


def test_the_gradient_is_that_of_a_cast(weight):
    grad = torch.randn(5, 7).bfloat16()
    (ours,) = torch.autograd.grad(rounded(weight), weight, grad)
    (theirs,) = torch.autograd.grad(weight.to(torch.bfloat16), weight, grad)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert not rounded(weight).requires_grad
    assert not rounded(weight.requires_grad_(False)).requires_grad


def test_what_is_not_kept_is_cast(weight):
    others = torch.randn(4, dtype=torch.float64), torch.randn(4)
    keep_shadows(others)
    forget_shadows([weight])
    for tensor in (weight, *others):
        assert torch.equal(rounded(tensor), tensor.bfloat16())
        assert shadows_of([tensor]) == [None]
    with torch.inference_mode():
        assert rounded(torch.ones(2, 2)).dtype == torch.bfloat16


def test_an_entry_goes_with_its_weight(weight):
    rounded(weight)
    before = len(shadows._kept)
    del weight
    other = torch.nn.Parameter(torch.ones(2, 2))
    keep_shadows([other])
    del other
    gc.collect()
    assert len(shadows._kept) <= before
