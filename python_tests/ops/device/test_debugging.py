"""Rows and lengths on a GPU are looked at in debug mode only."""

from __future__ import annotations

import pytest
import torch

from d2v_fast import ops

BAD = torch.tensor([0, 5, 99])


@pytest.fixture
def calls(pretended):
    """The operations with rows, run where a wrong row does no harm."""
    layers, pred = [torch.randn(2, 3, 4)], torch.randn(2, 3, 4)
    pretended.patch.setattr("d2v_fast.reference.layer_targets", lambda *given, **options: torch.zeros(3, 4))
    pretended.patch.setattr("d2v_fast.ops.device.smooth_l1._forward_plainly", lambda *given: torch.zeros(3))

    def run(rows=None, lengths=None):
        ops.layer_targets(layers, rows, lengths=lengths)
        if rows is not None:
            ops.masked_smooth_l1(pred, torch.zeros(3, 4), rows, beta=1.0)

    return run


def test_not_without_debug_mode(calls, monkeypatch):
    monkeypatch.delenv("D2V_FAST_DEBUG", raising=False)
    calls(BAD, torch.tensor([0, 9]))


def test_in_debug_mode(calls, monkeypatch, pretended):
    monkeypatch.setenv("D2V_FAST_DEBUG", "1")
    with pytest.raises(IndexError, match=r"rows\[2\] is 99, outside of the 6"):
        calls(BAD)
    with pytest.raises(IndexError, match=r"rows\[2\] is 99"):
        ops.masked_smooth_l1(torch.zeros(2, 3, 4), torch.zeros(3, 4), BAD, beta=1.0)
    with pytest.raises(ValueError, match=r"lengths\[0\] is 0; it must lie in \[1, T = 3\]"):
        calls(None, torch.tensor([0, 9]))
    calls(torch.tensor([0, 2, 5]), torch.tensor([1, 3]))
    pretended.capturing = True  # waiting is forbidden then
    calls(BAD, torch.tensor([0, 9]))
