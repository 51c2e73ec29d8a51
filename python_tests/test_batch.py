"""The batch: what moves to a device, and what stays on the host."""

from __future__ import annotations

from dataclasses import fields

import torch

from d2v_fast import batch as module
from d2v_fast.batch import Batch


class OnAGpu:
    """Stands for a tensor that an engine has made on a stream of its own."""

    is_cuda = True
    device = torch.device("cuda", 0)

    def __init__(self):
        self.streams = []

    def record_stream(self, stream):
        self.streams.append(stream)

    def to(self, device, non_blocking):
        assert non_blocking
        return self


def test_lengths_stay_on_the_host():
    lengths = torch.tensor([3, 2])
    made = Batch(inputs=torch.zeros(2, 3), lengths=lengths, label_lengths=lengths, sample_ids=torch.arange(2))
    moved = made.to(torch.device("meta"))
    assert moved.lengths is lengths
    assert moved.label_lengths is lengths
    assert moved.inputs.device.type == moved.sample_ids.device.type == "meta"
    assert moved.mask is None


def test_a_batch_of_a_gpu_engine_is_recorded_on_the_stream_that_uses_it(monkeypatch):
    """Its memory was made on the engine's stream, and must not be used again before the consumer is done."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the consumer's on {device}")
    tensor = OnAGpu()
    module._move(tensor, torch.device("cuda", 0))
    assert tensor.streams == ["the consumer's on cuda:0"]


def test_every_tensor_of_a_batch_moves():
    names = {field.name for field in fields(Batch)} - {"skipped", "views"}
    made = Batch(**{name: torch.zeros(2) for name in names})
    moved = made.to(torch.device("meta"))
    there = {name for name in names if getattr(moved, name).device.type == "meta"}
    assert names - there == {"lengths", "kept", "label_lengths"}
