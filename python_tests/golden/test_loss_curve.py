"""200 steps beside the released arrangement: what lies between the two losses is rounding.

The released arrangement in float64 says how fast rounding grows in these 200 steps, whose batch is always the same and
is learned by heart: its own float32 losses leave those of float64 by about 1e-5 of their size. Ours may be four times
as far from them.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import test_step

from d2v_fast.interop import fairseq

STEPS = 200
DECAY = 0.99


def in_float64(reference, batch):
    """The same arrangement with more digits."""
    double = copy.deepcopy(reference)
    for module in (double.student, double.teacher):
        module.double()
    if batch.inputs.is_floating_point():
        batch = replace(batch, inputs=batch.inputs.double())
    return double, batch


@pytest.mark.long
@pytest.mark.parametrize(("case", "rate"), [("text Base", 3e-4), ("ViT-S/16", 1e-4)])  # with more, rounding takes over
def test_the_loss_follows_the_released_arrangement(case, rate, monkeypatch):
    monkeypatch.setattr("d2v_fast.training.loop.learning_rate", lambda config, step, steps: config.lr)
    torch.manual_seed(0)
    config, batch = test_step.configured(case, True)
    # fairseq's Adam adds eps to the root of the moment before its correction, AdamW behind it: too little to be seen.
    optim = replace(config.optim, lr=rate, eps=1e-12)
    config = replace(config, optim=optim, ema=replace(config.ema, start=DECAY, end=DECAY, anneal_steps=0))
    ours, reference = test_step.Ours(config, batch), test_step.reference_of(config)
    reference.student.load_state_dict(
        fairseq.from_ours(ours.loop.task.model.student.state_dict(), config.model), strict=False
    )
    reference.teacher.load_state_dict(reference.averaged().state_dict())
    exact, doubled = in_float64(reference, batch)
    rows = 1 if reference.vision else len(batch.rows)
    curves = []
    for _ in range(STEPS):
        ours()
        own = float(ours.loop.window.read().losses["loss"])
        curves.append([own, reference.step(batch, DECAY) / rows, exact.step(doubled, DECAY) / rows])
    own, released, right = torch.tensor(curves, dtype=torch.float64).T
    assert right[-20:].mean() < 0.9 * right[0], "nothing was learned, so nothing is compared"
    growth, apart = ((one - right).abs() / right for one in (released, own))
    assert growth.max() < 1e-4, "rounding has grown so far that it hides what else differs"
    assert apart.max() < 4 * growth.max()
