"""The reference arrangement of the benchmarks computes what the released code does: losses, gradients, three steps."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]

import golden_case  # noqa: E402  (behind the path, as all three)
import golden_steps  # noqa: E402
import reference_step  # noqa: E402


def given(name):
    """A golden file, the arrangement with its weights, and the batch; in float64, as its losses and gradients are."""
    case = golden_case.read(HERE / f"{name}.npz")
    options = case.meta["config"]["_opt"]
    betas = ast.literal_eval(options["betas"])
    rule = reference_step.Rule(options["lr"], betas, options["eps"], options["wd"], options["clip"])
    reference = reference_step.ReferenceStep(case.config, rule)
    for part in ("student", "teacher"):
        load(case, reference, part)
    batch = case.batch
    if batch.inputs.is_floating_point():
        batch = replace(batch, inputs=batch.inputs.double())
    return case, reference, batch


def load(case, reference, part):
    module = getattr(reference, part)
    state = {name: value for name, value in case._state(f"{part}0").items() if not name.endswith("version")}
    module.load_state_dict(state)
    module.double()


@pytest.mark.parametrize("name", ["speech", "text", "vision"])
def test_losses_and_gradients_are_those_of_the_released_code(name):
    case, reference, batch = given(name)
    loss, prediction, target = reference.loss(batch)
    assert loss.item() == pytest.approx(float(case.get("fp64/loss", "fp64/loss_sum")), rel=1e-6)
    torch.testing.assert_close(prediction, case.get("fp64/x").double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(target, case.get("fp64/y").double(), rtol=0, atol=5e-6)
    loss.backward()
    parameters = dict(reference.student.named_parameters())
    gradients = case._state("fp64_grad")
    assert len(gradients) > 30
    for key, expected in gradients.items():
        torch.testing.assert_close(
            parameters[key].grad, expected.double(), rtol=0, atol=1e-5 * float(expected.abs().max()) + 1e-9, msg=key
        )


@pytest.mark.parametrize("name", ["speech", "text", "vision"])
def test_three_steps_are_those_of_the_released_code(name):
    case, reference, batch = given(name)
    protocol = SimpleNamespace(case=case)  # of which only the decays are asked
    for step in range(3):
        loss = reference.step(batch, golden_steps.Protocol.ema_decay(protocol, step + 1))
        assert loss == pytest.approx(float(case.get("steps/loss", "steps/loss_sum")[step]), rel=1e-4)
    for part in ("student", "teacher"):
        ours, theirs = getattr(reference, part).state_dict(), case._state(f"{part}3")
        compared = [key for key in theirs if not key.endswith(("version", "relative_position_index"))]
        assert len(compared) > 20
        for key in compared:
            torch.testing.assert_close(ours[key], theirs[key].double(), rtol=0, atol=1e-4, msg=key)
