"""Batches by length: little padding where there are many batches, and a remark where there is much."""

from __future__ import annotations

import numpy as np
import pytest
from loading import sampling_of
from plans import lognormal

from d2v_fast.data import LoaderConfig
from d2v_fast.data.selection import MUCH_WASTE, select
from d2v_fast.modalities.speech.config import SpeechInputs
from d2v_fast.modalities.text.config import TextInputs

RATE = 1000


def seconds(kind, count):
    """Lengths of clips, from many alike to a few that are much longer than the others."""
    draw = np.random.default_rng(1)
    return {
        "log-normal": lambda: lognormal(count) / RATE,
        "uniform": lambda: draw.uniform(1, 30, count),
        "exponential": lambda: draw.exponential(5, count).clip(0.3, 30),
        "log-uniform": lambda: np.exp(draw.uniform(np.log(0.3), np.log(30), count)),
        "heavy tail": lambda: (draw.pareto(1.2, count) + 0.3).clip(0.3, 30),
        "few long": lambda: np.where(draw.random(count) < 0.01, draw.uniform(10, 30, count), draw.uniform(1, 3, count)),
    }[kind]()


class Samples:
    """Sizes alone."""

    fingerprint = "sizes"

    def __init__(self, modality, sizes):
        self.modality, self.sizes = modality, sizes

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return str(index)


def waste_of(source, inputs, config, epoch):
    """The share of all batches of an epoch that is padding; how many there are; what is said."""
    sampling = sampling_of(inputs, config=config)
    made = select(source, np.arange(len(source)), sampling, config)
    plan = made.plan(made.train, source.sizes, sampling, 1, 0)
    valid = whole = 0
    for batch in range(made.train.batches):
        lengths = np.minimum(source.sizes[plan.samples(batch, epoch)], made.train.longest)
        valid, whole = valid + int(lengths.sum()), whole + len(lengths) * int(lengths.max())
    return 1 - valid / whole, made.train.batches, [one for one in made.remarks if "of a batch by length" in one]


@pytest.mark.parametrize("kind", ["log-normal", "uniform", "exponential", "log-uniform", "heavy tail", "few long"])
@pytest.mark.parametrize(("count", "budget"), [(2000, 60.0), (2000, 150.0), (20_000, 1200.0), (20_000, 150.0)])
def test_clips(kind, count, budget):
    source = Samples("speech", (seconds(kind, count) * RATE).astype(np.int64))
    inputs = SpeechInputs(sample_rate=RATE, min_seconds=0, max_seconds=30)
    config = LoaderConfig(batch_seconds=budget, batch_size=count)
    for epoch in (0, 3):
        waste, batches, said = waste_of(source, inputs, config, epoch)
        if batches > 100:
            assert waste < MUCH_WASTE
        if abs(waste - MUCH_WASTE) > 0.008:  # some batches of one epoch are measured, which is about the same
            assert bool(said) == (waste > MUCH_WASTE)
    if said:
        assert f"{count:,} samples make only {batches:,} batches. A smaller loader.batch_seconds wastes less" in said[0]


def test_documents():
    sizes = np.clip(lognormal(20_000) // 50, 8, 512)
    inputs = TextInputs(block_size=512, packed=False)
    waste, batches, said = waste_of(
        Samples("text", sizes), inputs, LoaderConfig(batch_tokens=30_000, batch_size=5000), 1
    )
    assert batches > 100
    assert waste < MUCH_WASTE
    assert not said
    waste, batches, said = waste_of(
        Samples("text", sizes[:2000]), inputs, LoaderConfig(batch_tokens=30_000, batch_size=5000), 1
    )
    assert waste > MUCH_WASTE
    assert "A smaller loader.batch_tokens wastes less" in said[0]
