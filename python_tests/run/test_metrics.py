from __future__ import annotations

import json

import pytest
import torch

from d2v_fast.run.metrics import Window, finite

CPU = torch.device("cpu")


def add(window: Window, loss: float, norm: float, bad: bool = False, skipped: int = 0) -> None:
    window.add(torch.tensor(loss), torch.tensor(norm), torch.tensor(float(bad)), skipped)


def test_averages_leave_skipped_steps_out():
    window = Window(CPU)
    add(window, 1.0, 10.0)
    add(window, float("nan"), float("inf"), bad=True, skipped=2)
    add(window, 2.0, 30.0, skipped=1)
    assert window.read() == ({"loss": 1.5, "grad_norm": 20.0, "skipped_samples": 3, "skipped_steps": 1}, 0)
    add(window, float("nan"), 1.0, bad=True)
    add(window, 1.0, float("nan"), bad=True)
    line, row = window.read()
    assert row == 2
    assert line == {"loss": None, "grad_norm": None, "skipped_samples": 3, "skipped_steps": 3}
    add(window, float("nan"), 1.0, bad=True)
    assert window.read()[1] == 3
    add(window, 0.5, 1.0)
    assert window.read() == ({"loss": 0.5, "grad_norm": 1.0, "skipped_samples": 3, "skipped_steps": 4}, 0)


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
