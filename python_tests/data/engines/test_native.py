from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from loading import engine_of

from d2v_fast.data import ArraySource
from d2v_fast.data.plan import BatchPlan
from d2v_fast.masking import Masks
from d2v_fast.modalities.vision.config import VisionInputs
from d2v_fast.modalities.vision.sampling import PicturePlan

INPUTS = VisionInputs(mean=(0.0,), std=(1.0,), jitter=0)


def plan_of(*ids):
    count = len(ids)
    details = PicturePlan(np.array([[0, 0, 8, 8]] * count), np.zeros(count, bool), np.ones((count, 3)))
    return BatchPlan(np.array(ids), 0, details)


def no_masks(inputs, lengths, sample_ids, epoch):
    return Masks(torch.zeros(2 * len(inputs), 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), None)


class Numbered(ArraySource):
    """Sample i is a picture of value i; reading waits for `gate`."""

    def __init__(self, count):
        super().__init__("vision", np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 8, 8)))
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.read_ids = []

    def read(self, index):
        self.reading.set()
        self.gate.wait(30)
        self.read_ids.append(index)
        return np.ascontiguousarray(super().read(index))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_each_sample_gets_its_own_row(threads, count):
    source = Numbered(count)
    engine = engine_of("native", source, INPUTS, no_masks, 8, threads, torch.device("cpu"))
    order = np.random.default_rng(0).permutation(count).tolist()
    made = engine.begin(lambda: plan_of(*order)).result(30)
    engine.close()
    assert (made.batch.inputs[:, 0] * 255).round().amax((1, 2)).tolist() == order
    assert made.batch.sample_ids.tolist() == order
    assert made.batch.views == 2
    assert made.failures == {}
    assert sorted(source.read_ids) == list(range(count))


def test_a_batch_that_nobody_wants_is_not_read():
    source = Numbered(4)
    source.gate.clear()
    engine = engine_of("native", source, INPUTS, no_masks, 8, 1, torch.device("cpu"))
    first, second = engine.begin(lambda: plan_of(0)), engine.begin(lambda: plan_of(1, 2, 3))
    second.cancel()
    source.gate.set()
    assert first.result(30).batch is not None
    engine.close()
    assert source.read_ids == [0]
    with pytest.raises(CancelledError):
        second.result()


def test_closing_drops_what_is_not_begun():
    source = Numbered(3)
    source.gate.clear()
    engine = engine_of("native", source, INPUTS, no_masks, 8, 1, torch.device("cpu"))
    futures = [engine.begin(lambda i=i: plan_of(i)) for i in range(3)]
    assert source.reading.wait(30)  # a plan that was just being made when it closes fails, which is another case
    threading.Timer(0.05, source.gate.set).start()
    engine.close()
    assert len(source.read_ids) <= 1
    assert not any(future.done() for future in futures[1:])


def test_an_error_in_the_plan_becomes_the_batchs():
    engine = engine_of("native", Numbered(3), INPUTS, no_masks, 8, 1, torch.device("cpu"))
    with pytest.raises(KeyError, match="oh"):
        engine.begin(lambda: {}["oh"]).result(30)
    engine.close()


def test_decoding_uses_one_core_per_thread_and_leaves_torchs_setting():
    seen = []

    def masks(inputs, lengths, sample_ids, epoch):
        seen.append(torch.get_num_threads())
        return no_masks(inputs, lengths, sample_ids, epoch)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = engine_of("native", Numbered(3), INPUTS, masks, 8, 2, torch.device("cpu"))
        for _ in range(4):
            engine.begin(lambda: plan_of(0, 1, 2)).result(30)
        engine.close()
        assert torch.get_num_threads() == 2
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1, 1, 2]  # a thread that starts later does not take the decoders' setting over
