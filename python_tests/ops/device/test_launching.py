"""What the glue asks of torch.cuda, with torch.cuda pretended: the tensor's device, its stream, and the capture."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from d2v_fast.ops.device import launching

SECOND = torch.device("cuda", 1)


@pytest.fixture
def asked(monkeypatch):
    """What was asked of torch.cuda, in order."""
    calls = []

    @contextlib.contextmanager
    def device(which):
        calls.append(("enter", which))
        yield
        calls.append(("leave", which))

    def current_stream(which):
        calls.append(("stream", which))
        return SimpleNamespace(cuda_stream=4096)

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    return calls


def test_the_device_of_the_tensor_is_made_current_and_left_again(asked):
    with launching.on(SECOND):
        assert launching.place(SECOND) == (1, 4096)
    assert asked == [("enter", SECOND), ("stream", SECOND), ("leave", SECOND)]


def test_a_capture_is_noticed(asked):
    assert launching.capturing()


def test_tables_are_kept_for_the_current_stream(asked):
    kept = []
    launching.keep_for([SimpleNamespace(record_stream=kept.append)], SECOND)
    assert [stream.cuda_stream for stream in kept] == [4096]


def test_triton_gets_the_grid_the_arguments_and_the_warps():
    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: started.append((grid, arguments, options))

    started = []
    launching.start(Kernel(), (3, 2), "a", None, warps=4)
    assert started == [((3, 2), ("a", None), {"num_warps": 4})]


def test_a_launch_that_fails_is_raised():
    class Kernel:
        def __getitem__(self, grid):
            raise RuntimeError("Triton Error [CUDA]: out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        launching.start(Kernel(), (1,), warps=1)
