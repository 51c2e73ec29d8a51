"""Each kernel with one fault planted in its source: a small check, which the right kernel passes, must fail.

This tests the tests: that bounds, rows, lengths and statistics cannot be wrong without anybody seeing it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import launches
import pytest
import torch
from d2v_fast.kernels import ema, layer_targets, smooth_l1
from triton.runtime.errors import InterpreterError

from d2v_fast import reference

ROWS = torch.tensor([0, 3, 36, 37, 48, 49, 74, 75])
KERNELS = {"ema": ema, "smooth_l1": smooth_l1, "layer_targets": layer_targets}
FAULTS = {
    "ema": [
        ("at < count", "at <= count"),
        ("if full < count", "if full + 1 < count"),
        ("full = count // BLOCK * BLOCK", "full = (count + BLOCK - 1) // BLOCK * BLOCK"),
        ("tl.program_id(0) * 4", "tl.program_id(0) // 2 * 4"),
        ("(from_teacher, old, sample)", "(from_teacher, sample, old)"),
        ("far == 0.0", "far == 1.0"),
        ("move = 1.0 - keep", "move = 1.0 - keep.to(tl.float32)"),
        ("tl.store(shadow, new", "tl.store(shadow, old"),
    ],
    "smooth_l1": [
        ("pred + position * channels", "pred + row * channels"),
        ("target + row * channels", "target + position * channels"),
        (", mask=far < channels)\n    tl.store(losses", ")\n    tl.store(losses"),
        ("tl.load(pred + at, mask=inside, other=0.0)", "tl.load(pred + at, mask=inside)"),
        ("far = near + HALF", "far = near + HALF - 1"),
        ("0.5 * beta", "beta"),
        ("slope < -1.0, -1.0", "slope < -1.0, 1.0"),
        ("(slope_far * factor)", "slope_far"),
        ("range(0, channels, BLOCK)", "range(0, channels - 1, BLOCK)"),
        ("(g * by)", "(g * factor)"),
        ("incoming + row if PER_ROW", "incoming + position if PER_ROW"),
    ],
    "layer_targets": [
        ("frame < tl.load(lengths + sample)", "frame <= tl.load(lengths + sample)"),
        ("sample * sample_stride + frame * frame_stride\n", "sample * frame_stride + frame * sample_stride\n"),
        ("(slot < count)", "(slot <= count)"),
        ("(frame < count)", "(frame < count - 1)"),
        ("centre + offset, mask", "centre, mask"),
        ("- whole * offset * offset", "- offset * offset"),
        ("step * step * (count * share)", "step * step * share"),
        ("mean += step * share", "mean += step"),
        ("range(1, batch)", "range(1, batch - 1)"),
        ("(sample == of)", "(sample >= of)"),
        ("range(first, last + 1)", "range(first, last)"),
        ("(k * batch + of)", "(k + of)"),
        ("x - mean, 0.0", "x - mean, 1.0"),
        ("keep_dims=True) / channels\n    return", "keep_dims=True) / (channels + 1)\n    return"),
        ("total = tl.where(wanted[:, None], total, 0.0)\n", ""),
        ("mask=there[:, None] & inside[None, :]", "mask=inside[None, :]"),
        ("range(1, len(layers))", "range(1, len(layers) - 1)"),
    ],
}


def check_ema():
    for decay in (0.9999, 0.25, 1.0):
        teacher, student = ([x[:33] for x in lists] for lists in torch.randn(2, 3, 48))
        if decay == 1.0:
            student[0][5] = torch.inf
        expected, shadow = [x.clone() for x in teacher], [torch.zeros(33).bfloat16() for _ in teacher]
        reference.ema_update_(expected, student, decay)
        launches.run_ema(teacher, student, decay, shadow, block=16)
        torch.testing.assert_close(teacher, expected, rtol=1e-6, atol=1e-7)
        assert all(torch.equal(copy, x.bfloat16()) for copy, x in zip(shadow, teacher, strict=True))
    teacher, copy = torch.zeros(9), torch.zeros(9).bfloat16()
    launches.run_ema([teacher], [torch.ones(9)], 0.9999, [copy], block=16)
    assert torch.equal(teacher, torch.full((9,), 1 - 0.9999))
    assert torch.equal(copy, teacher.bfloat16())


def check_smooth_l1():
    pred, target = torch.randn(76, 257) * 3, torch.randn(len(ROWS), 257)
    losses, gradient, _ = launches.run_forward(pred, target, ROWS, beta=1.0, scale=0.5, factor=0.5)
    leaf = pred[None].clone().requires_grad_()
    expected = reference.masked_smooth_l1(leaf, target, ROWS, beta=1.0, scale=0.5, reduction="none")
    torch.testing.assert_close(losses, expected)
    (full,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(gradient, full[0])
    incoming = torch.linspace(1, 2, len(ROWS))
    out = launches.run_backward(full[0], incoming, ROWS, 3.0)
    torch.testing.assert_close(out[ROWS], full[0][ROWS] * incoming[:, None] * 3)


def check_layer_targets():
    # The constant lets a sample's mean be far from the others', and the sizes leave tails in every direction.
    layers = [torch.randn(3, 37, 40) + torch.tensor([0.0, 4.0, 8.0]).view(3, 1, 1) for _ in range(3)]
    lengths = torch.tensor([37, 12, 1])
    for layer_norm, final_norm, rows in (("layer", None, ROWS), ("instance", "layer", None), ("batch", None, ROWS)):
        options = {"layer_norm": layer_norm, "final_norm": final_norm, "lengths": lengths}
        expected = reference.layer_targets(layers, rows, **options).flatten(0, -2)
        ours, _ = launches.run_layer_targets(layers, rows, **options)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


CHECKS = {"ema": check_ema, "smooth_l1": check_smooth_l1, "layer_targets": check_layer_targets}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("stem", KERNELS)
def test_right_kernels_pass(stem):
    CHECKS[stem]()


@pytest.mark.parametrize(("stem", "right", "wrong"), [(stem, *fault) for stem in FAULTS for fault in FAULTS[stem]])
def test_faults_are_caught(stem, right, wrong, tmp_path, monkeypatch):
    source = Path(KERNELS[stem].__file__).read_text()
    assert right in source, "the list of faults is stale"
    file = tmp_path / f"{stem}.py"
    file.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location(f"faulty_{stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(launches, stem, module)
    with pytest.raises((AssertionError, InterpreterError)):
        CHECKS[stem]()
