from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import dali_of

from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.vision.config import VisionInputs

pytest.importorskip("nvidia.dali", reason='NVIDIA DALI is not installed (pip install "d2v_fast[dali]")')

from nvidia.dali import Pipeline

from d2v_fast.data.engines import dali_graph
from d2v_fast.modalities.vision.dali import _cubic, border

KINDS = {
    "pictures": VisionInputs(),
    "pictures without jitter": VisionInputs(jitter=0),
    "grey pictures": VisionInputs(mean=(0.5,), std=(0.2,)),
    "clips": SpeechInputs(),
    "clips as they are": SpeechInputs(normalize=False),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def inputs(request):
    return request.param


def outputs(inputs, gpu):
    pipeline = Pipeline(batch_size=4, num_threads=1, device_id=0 if gpu else None, prefetch_queue_depth=2)
    with pipeline:
        return dali_of(inputs, 32)().define(gpu=gpu)


def test_the_graph_for_a_gpu_is_constructed_without_one(inputs):
    assert outputs(inputs, gpu=True).device == "gpu"
    assert outputs(inputs, gpu=False).device == "cpu"
    pipeline = dali_graph.construct(dali_of(inputs, 32)(), 4, 1, torch.device("cuda", 0))
    assert pipeline.device_id == 0
    assert dali_graph.construct(dali_of(inputs, 32)(), 4, 1, torch.device("cpu")).device_id is None


def test_an_example_runs(inputs):
    graph = dali_graph.Graph(dali_of(inputs, 32)(), 4, 1, torch.device("cpu"))
    example = dali_of(inputs, 32)().example()
    for count in (1, 4, 2):  # batches of any size up to the largest, two of them at a time
        graph.start([example] * count)
        graph.start([example])
        first, second = graph.take(), graph.take()
        assert first.dtype == torch.float32
        assert torch.equal(first, second.expand_as(first)) if count == 1 else len(first) == count
        assert len(second) == 1


@pytest.mark.parametrize(
    ("size", "side"), [(90, 32), (33, 32), (32, 32), (31, 32), (5, 32), (1, 32), (2000, 224), (7, 224)]
)
def test_the_weights_beyond_the_border_are_those_that_torch_leaves_out(size, side):
    """A picture of one bright column at the border is resized by a filter that repeats the border, as DALI does."""
    before, behind, rest = border(size, side).astype(np.float64)
    assert np.allclose((1 - before - behind) * rest, 1, atol=1e-6)
    assert np.allclose(before, behind[::-1], atol=1e-6)
    line = torch.zeros(1, 1, 1, size, dtype=torch.float64)
    line[..., 0] = 1
    ours = F.interpolate(line, size=(1, side), mode="bicubic", antialias=True)[0, 0, 0]
    # the same filter over a line that goes on with the border's value to both sides
    margin = 4 * max(1, -(-size // side)) + 4
    margin += -margin % 4
    centres, scale = (np.arange(side) + 0.5) * size / side, max(size / side, 1.0)
    places = np.arange(-margin, size + margin)
    weights = _cubic((places + 0.5 - centres[:, None]) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    repeated = weights[:, places <= 0].sum(axis=1)
    if size == side:
        repeated = np.eye(side)[0]
    last = 1.0 * (size == 1)
    corrected = (repeated + last * weights[:, places > 0].sum(axis=1) - before - last * behind) * rest
    assert np.abs(corrected - ours.numpy()).max() < 1e-6
