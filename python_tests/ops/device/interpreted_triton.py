"""The Triton route: the operations on CPU tensors, their kernels in the strict interpreter."""

from __future__ import annotations

import itertools

import cases
import pytest
import torch
import triton_interpreter

from d2v_fast import ops


@pytest.fixture(autouse=True)
def gpu(pretended):
    memory = []
    pretended.with_triton(triton_interpreter.launch, memory)
    pretended.memory = memory
    return pretended


@pytest.fixture(autouse=True)
def _memory_of_lists(gpu, monkeypatch):
    """The moving average's tensors are known to its table only: the interpreter is told of them."""
    update = ops.ema_update_

    def told(teacher, student, decay, shadow=None):
        gpu.memory[:] = [*teacher, *student, *(shadow or ())]
        update(teacher, student, decay, shadow)

    monkeypatch.setattr(ops, "ema_update_", told)


@pytest.mark.parametrize("decay", [0.999, 0.25])
@pytest.mark.parametrize("name", cases.EMA)
def test_ema(name, decay, gpu, no_worse_than):
    cases.ema(name, decay, no_worse_than)
    launches = {"one format": 1, "mixed formats": 4, "float64": 0, "odd offsets": 2, "orders that differ": 1}
    launches |= {
        "dense in another order": 1,
        "channels last": 1,
        "gaps": 0,
        "gaps alike": 0,
        "nothing": 0,
        "empty tensors": 0,
    }
    assert gpu.launches == ["ema_update"] * launches[name]


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ema_ends_are_exact(decay):
    cases.ema_ends(decay)


def test_decay_tensor():
    cases.ema_of_a_decay_tensor()


NORMS = list(itertools.product([None, "layer", "instance", "batch"], [None, "layer"]))
BY_COLUMNS = ["column_statistics", "column_targets"]


@pytest.mark.parametrize("norms", NORMS, ids=str)
def test_targets(norms, gpu, no_worse_than):
    for dtype in cases.LOW:
        cases.targets_of_all_norms(dtype, norms, no_worse_than)
    merged = [BY_COLUMNS[0], "merge_samples", BY_COLUMNS[1]]
    once = {None: ["row_targets"], "layer": ["row_targets"], "instance": BY_COLUMNS, "batch": merged}[norms[0]]
    assert gpu.launches == once * 9


@pytest.mark.parametrize(
    "norms", [(("layer", "instance"), None), ("instance", "batch"), ((), ("layer", "layer"))], ids=str
)
def test_targets_of_several_norms_are_plain_torchs(norms, gpu, no_worse_than):
    cases.targets_of_all_norms(torch.bfloat16, norms, no_worse_than)
    assert gpu.launches == []


def test_targets_of_float64_are_plain_torchs(gpu, no_worse_than):
    cases.targets_of_all_norms(torch.float64, ("instance", None), no_worse_than)
    assert gpu.launches == []


@pytest.mark.parametrize("norms", [("layer", None), (None, None), ("instance", "layer")], ids=str)
def test_rows_too_long_for_registers_are_plain_torchs(norms, gpu, no_worse_than):
    layers = cases.make_layers(1, (1, 2, 8193), torch.float32)
    cases.targets(layers, no_worse_than, layer_norm=norms[0], final_norm=norms[1], eps=1.0)
    assert gpu.launches == []


@pytest.mark.parametrize("norm", [None, "layer", "instance", "batch"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(layout, norm, gpu, no_worse_than):
    cases.targets_of_a_layout(layout, norm, no_worse_than)
    assert gpu.launches


@pytest.mark.parametrize("norm", [None, "layer", "instance", "batch"])
def test_awkward_sizes(norm, no_worse_than):
    cases.targets_of_awkward_sizes(norm, no_worse_than)
    cases.targets_of_nothing(norm)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", cases.LOW, ids=str)
def test_losses(dtype, target, beta, gpu, no_worse_than):
    cases.losses_of_formats(dtype, target, beta, no_worse_than)
    assert gpu.launches == ["smooth_l1_forward", "smooth_l1_backward", "smooth_l1_forward"] * 6


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("formats", [(torch.float64, torch.float32), (torch.bfloat16, torch.float64)], ids=str)
def test_losses_of_float64_are_plain_torchs(formats, beta, gpu, no_worse_than):
    cases.losses_of_formats(*formats, beta, no_worse_than)
    assert "smooth_l1_forward" not in gpu.launches


def test_layouts_of_losses(no_worse_than):
    cases.losses_of_layouts(no_worse_than)


def test_losses_of_nothing():
    cases.losses_of_nothing()


def test_float16_does_not_underflow():
    cases.float16_does_not_underflow()
