from __future__ import annotations

import json

import pytest
import torch

from d2v_fast.run.metrics import Totals, Window, finite

CPU = torch.device("cpu")


def add(window: Window, loss: float, norm: float, bad: bool = False, skipped: int = 0) -> None:
    window.add(torch.tensor(loss), torch.tensor(norm), torch.tensor(float(bad)), skipped)


def test_averages_leave_skipped_steps_out():
    window = Window(CPU)
    add(window, 1.0, 10.0)
    add(window, float("nan"), float("inf"), bad=True, skipped=2)
    add(window, 2.0, 30.0, skipped=1)
    assert window.read() == Totals({"loss": 1.5}, 20.0, skipped_samples=3, skipped_steps=1, skipped_lately=0)
    add(window, float("nan"), 1.0, bad=True)
    add(window, 1.0, float("nan"), bad=True)
    assert window.read() == Totals({"loss": None}, None, skipped_samples=3, skipped_steps=3, skipped_lately=2)
    add(window, float("nan"), 1.0, bad=True)
    assert window.read().skipped_lately == 3
    add(window, 0.5, 1.0)
    assert window.read() == Totals({"loss": 0.5}, 1.0, skipped_samples=3, skipped_steps=4, skipped_lately=0)


def test_parts_of_a_loss_have_fields_of_their_own_if_there_are_several():
    one, several = Window(CPU), Window(CPU)
    for loss, bad in ((1.0, False), (float("nan"), True), (2.0, False)):
        numbers = torch.tensor(loss), torch.tensor(1.0), torch.tensor(float(bad)), 0
        one.add(*numbers, {"a": torch.tensor(loss)})
        several.add(*numbers, {"a": torch.tensor(loss), "b": torch.tensor(3 * loss)})
    assert one.read().losses == {"loss": 1.5}
    restored = Window(CPU)
    restored.load_state(json.loads(json.dumps(several.state())))
    assert several.read().losses == restored.read().losses == {"loss": 1.5, "loss_a": 1.5, "loss_b": 4.5}


def test_state_survives_json_bit_for_bit():
    random = torch.Generator().manual_seed(0)
    values = torch.rand(9, generator=random).tolist()
    whole, first, second = Window(CPU), Window(CPU), Window(CPU)
    for value in values:
        add(whole, value, 3 * value, bad=value < 0.1)
    for value in values[:5]:
        add(first, value, 3 * value, bad=value < 0.1)
    second.load_state(json.loads(json.dumps(first.state())))
    for value in values[5:]:
        add(second, value, 3 * value, bad=value < 0.1)
    assert second.read() == whole.read()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_does_not_have_becomes_null(value):
    assert finite({"a": value, "b": 1.5, "c": 3, "d": None}) == {"a": None, "b": 1.5, "c": 3, "d": None}
