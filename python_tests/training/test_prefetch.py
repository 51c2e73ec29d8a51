"""The copy of the next batch is begun before the work on this one, and on CUDA on a stream of its own.

There is no GPU here: tensors are fake ones (shapes, formats and devices, no numbers), and the streams write down what
they are asked for.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from d2v_fast.batch import Batch
from d2v_fast.training.prefetch import Prefetch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def make_batch(number: int) -> Batch:
    return Batch(
        inputs=torch.full((2, 3), float(number)),
        lengths=torch.tensor([3, 2]),
        labels=torch.tensor([number, number]),
        sample_ids=torch.tensor([0, 1]),
    )


@pytest.fixture
def events(monkeypatch):
    """What happens, in order: copies as ("copy", name of the stream), work as the test adds it."""
    happened = []
    to = Batch.to

    def copied(batch, device):
        happened.append(("copy", torch.cuda.current_stream(device).name if device.type == "cuda" else device.type))
        return to(batch, device)

    monkeypatch.setattr(Batch, "to", copied)
    return happened


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_one_copy_is_ahead_and_none_is_lost(events, device, count):
    prefetch = Prefetch(torch.device(device))
    batches = [make_batch(i) for i in range(count)]
    for batch in prefetch(batches):
        events.append("work")
        assert batch.inputs.device.type == batch.labels.device.type == device
        assert batch.lengths.device.type == "cpu"
        if device == "cpu":
            assert batch.inputs[0, 0] == events.count("work") - 1
    copy = ("copy", device)
    expected = {0: [], 1: [copy, "work"], 2: [copy, copy, "work", "work"]}
    assert events == expected.get(count, [copy, copy, "work", copy, "work", copy, "work", "work"])


class Stream:
    """A stream that writes down what it is asked for."""

    def __init__(self, events, name):
        self.events, self.name, self.marks = events, name, 0

    def record_event(self):
        self.marks += 1
        self.events.append((self.name, "records", self.marks))
        return self.marks

    def wait_event(self, mark):
        self.events.append((self.name, "waits for", mark))


@pytest.fixture
def streams(events, monkeypatch):
    """A compute stream, which is the current one, and the copy stream that `Prefetch` makes."""
    current = [Stream(events, "compute")]

    @contextmanager
    def use(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(events, "copies"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", use)
    recorded = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: recorded.append(stream.name))
    return recorded


def test_on_cuda_the_copies_have_a_stream_of_their_own(events, streams):
    prefetch = Prefetch(CUDA)
    with FakeTensorMode():
        batches = [make_batch(i) for i in range(3)]
        for batch in prefetch(batches):
            events.append("work")
            assert batch.inputs.device == batch.labels.device == batch.sample_ids.device == CUDA
            assert batch.lengths.device == CPU
    copy = ("copy", "copies")
    assert events == [
        *(copy, ("copies", "records", 1)),
        # The second copy is under way before the work on the first batch, which waits for the first copy only.
        *(copy, ("copies", "records", 2), ("compute", "waits for", 1), "work"),
        *(copy, ("copies", "records", 3), ("compute", "waits for", 2), "work"),
        *(("compute", "waits for", 3), "work"),
    ]
    assert streams == ["compute"] * 9  # three tensors of each batch are kept until the compute stream is done with them


def test_batches_that_are_on_the_gpu_already_are_handed_on(events, streams):
    """DALI makes them there."""
    prefetch = Prefetch(CUDA)
    with FakeTensorMode():
        there = make_batch(0).to(CUDA)
        events.clear()
        streams.clear()
        (batch,) = prefetch([there])
        assert batch.inputs is there.inputs
    assert events[-1] == ("compute", "waits for", 1)
    assert "compute" in streams
