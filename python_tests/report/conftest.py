"""Runs of this room: one thread, no TensorBoard."""

from __future__ import annotations

import pytest
import torch
from finetunings import make_finetuning, pretrained

__all__ = ["make_finetuning", "pretrained"]


@pytest.fixture(autouse=True)
def one_thread():
    """The bits of a run are promised for one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Its import costs more than these runs; test_progress.py writes to it."""
    monkeypatch.setattr("d2v_fast.run.sinks.find_spec", lambda name: None)
