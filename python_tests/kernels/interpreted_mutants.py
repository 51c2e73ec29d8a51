"""Each kernel with one fault planted in its source: a small check, which the right kernel passes, must fail.

This tests the tests: that bounds, rows, lengths and statistics cannot be wrong without anybody seeing it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import launches
import pytest
import torch
from d2v_fast.kernels import (
    adamw_ema,
    decoder_layer,
    distance_attention,
    ema,
    layer_targets,
    norm_gelu,
    restore,
    smooth_l1,
)
from d2v_fast.kernels.launch import AttentionTile
from triton.runtime.errors import InterpreterError

from d2v_fast import reference
from d2v_fast.ops.fused_attention import fused_attention

ROWS = torch.tensor([0, 3, 36, 37, 48, 49, 74, 75])
KERNELS = {
    "adamw_ema": adamw_ema,
    "ema": ema,
    "smooth_l1": smooth_l1,
    "layer_targets": layer_targets,
    "restore": restore,
    "decoder_layer": decoder_layer,
    "norm_gelu": norm_gelu,
    "distance_attention": distance_attention,
}
FAULTS = {
    "adamw_ema": [
        ("found_inf) == 0.0", "found_inf) >= 0.0"),
        ("tl.program_id(0) * 3", "tl.program_id(0) // 2 * 3"),
        ("tl.load(row + 2)", "tl.load(row + 3)"),
        ("tl.load(row + 9)", "tl.load(row + 8)"),
        ("(1.0 - lr * weight_decay)", "(1.0 - weight_decay)"),
        ("done * log1", "log1"),
        ("done * log2", "done * log1"),
        ("tl.sqrt(1.0 - tl.exp", "(1.0 - tl.exp"),
        ("full = count // BLOCK * BLOCK", "full = (count + BLOCK - 1) // BLOCK * BLOCK"),
        ("at < count, scale", "at <= count, scale"),
        ("if full < count", "if full + 1 < count"),
        ("tl.load(gradient, mask=mask), scale)", "tl.load(gradient, mask=mask), 1.0)"),
        ("second_weight * g * g", "second_weight * g"),
        (", root) + eps", ", root)"),
        ("far == 0.0", "far == 1.0"),
        ("(from_old, old, new)", "(from_old, new, old)"),
        ("tl.store(shadow, value", "tl.store(shadow, value * 1.1"),
        ("tl.store(teacher_shadow, moved", "tl.store(teacher_shadow, value"),
    ],
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
    "restore": [
        ("< start)", "<= start)"),
        ("mask=number < count", "mask=number < count - 1"),
        ("(near[None, :] < row[:, None])", "(near[None, :] <= row[:, None])"),
        ("(near[None, :] >= 0) & ", ""),
        ("(row < places)", "(row <= places)"),
        ("mask=inside & found[:, None]", "mask=inside"),
        ("(row - before)", "row"),
    ],
    "decoder_layer": [
        ("tl.where(inside, z - mean, 0.0)", "z - mean"),
        ("tl.sum(away * away, 0) / channels", "tl.sum(away * away, 0) / (channels - 1)"),
        (" + added", ""),
        ("below + u * density", "below + density"),
        ("slope - shift - u * tilt", "slope - u * tilt"),
        ("slope - shift - u * tilt", "slope - shift"),
        ("u * u * -0.72", "u * u * -0.5"),
        ("tl.where(u < 0.0, tail", "tl.where(u > 0.0, tail"),
        ("inside = at < channels\n    added", "inside = at <= channels\n    added"),
    ],
    "norm_gelu": [
        ("tl.minimum(first + share, rows)", "first + share"),
        ("row < last", "row <= last"),
        ("at < channels", "at <= channels"),
        ("x + at, row + 1, last", "x + at, row, last"),
        ("gradient + at, row + 1, last", "gradient + at, row, last"),
        ("gelu(u * w + b)", "gelu(u * w)"),
        ("gelu_slope(u * w + b)", "gelu_slope(u)"),
        ("tl.store(scales + row, scale)", "tl.store(scales + row, mean)"),
        ("(z - mean) * scale", "z * scale"),
        ("of_weight += slope * u", "of_weight += slope"),
        ("of_bias += slope", "of_bias += g"),
        ("slope *= w", "slope *= 1.0"),
        ("slope - shift - u * tilt", "slope - u * tilt"),
        ("slope - shift - u * tilt", "slope - shift"),
        ("* 2 * channels + at", "* channels + at"),
        ("tl.store(to + channels, of_bias", "tl.store(to + channels, of_weight"),
    ],
    "distance_attention": [
        (
            "there = other < end\n        k = _rows(key + head * key_head, other, there, "
            "key_stride, channel, dim)\n        where_k",
            "there = other <= end\n        k = _rows(key + head * key_head, other, there, "
            "key_stride, channel, dim)\n        where_k",
        ),
        ("mixed * before[:, None]", "mixed"),
        ("total * before + tl.sum", "total + tl.sum"),
        ("- factor * _apart", "+ factor * _apart"),
        ("(where_q >= 0)[:, None] & ", ""),
        ("(total * scale)", "total"),
        ("(total_key * scale)", "total_key"),
        ("share -= ", "share += "),
        ("weights * (slopes - mean[:, None])\n        share", "weights * slopes\n        share"),
        ("weights * (slopes - mean[:, None])\n        total_value", "weights * slopes\n        total_value"),
        ("shares = weights * drawn", "shares = weights"),
        ("own = start + tl.program_id(0) * KEYS", "own = start + tl.program_id(0) * QUERIES"),
        ("(channel < dim)[None, :], other=0.0)", "(channel <= dim)[None, :], other=0.0)"),
        ("other - start, own - start, limit", "own - start, other - start, limit"),
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


def check_adamw_ema():
    options = {"betas": (0.9, 0.98), "eps": 0.1}
    for decay, found in ((0.9999, 0.0), (0.25, 0.0), (1.0, 0.0), (0.5, 1.0)):
        names = ("parameters", "gradients", "exp_avg", "exp_avg_sq", "teacher")
        given = {name: [x[:33] for x in torch.randn(3, 48)] for name in names}
        given["exp_avg_sq"] = [x.abs() for x in given["exp_avg_sq"]]
        if decay == 1.0:
            given["parameters"][0][5] = torch.inf
        given["steps"] = [torch.tensor(2.0 + i) for i in range(3)]
        given |= {name: [torch.zeros(33).bfloat16() for _ in range(3)] for name in ("shadow", "teacher_shadow")}
        theirs = {name: [x.clone() for x in tensors] for name, tensors in given.items()}
        theirs["steps"] = [x - 1 for x in given["steps"]]
        rates = [0.1, 0.2, 0.3], [0.5, 0.0, 0.7]
        reference.adamw_ema_(
            **theirs, lr=rates[0], weight_decay=rates[1], **options, gradient_scale=torch.tensor(2.0),
            found_inf=torch.tensor(found), decay=decay,
        )  # fmt: skip
        launches.run_adamw(given, *rates, **options, scale=2.0, found=found, decay=decay, block=16)
        for name in (*names, "shadow", "teacher_shadow"):
            torch.testing.assert_close(given[name], theirs[name], rtol=1e-2 if "shadow" in name else 2e-6, atol=1e-6)


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


def check_restore():
    tokens, noise = torch.randn(5, 37), torch.randn(29, 37)
    for kept in ([0, 3, 16, 17, 33], [2, 15, 16, 31, 32]):
        out, _ = launches.run_restore(tokens, torch.tensor(kept), noise)
        torch.testing.assert_close(out, reference.restore(tokens, torch.tensor(kept), noise, 1, 34)[0])


def check_decoder_layer():
    z, x, gradient = torch.randn(3, 4, 37)
    z = (z * 2 + 1).requires_grad_()
    y = torch.nn.functional.gelu(torch.nn.functional.layer_norm(z, (37,)))
    torch.testing.assert_close(launches.run_finish(z.detach(), x)[0], (y + x).detach(), rtol=1e-5, atol=1e-6)
    (expected,) = torch.autograd.grad(y, z, gradient)
    torch.testing.assert_close(launches.run_unfinish(z.detach(), gradient)[0], expected, rtol=1e-4, atol=1e-5)


def check_norm_gelu():
    x, gradient, (weight, bias) = torch.randn(5, 37) * 2 + 1, torch.randn(5, 37), torch.randn(2, 37)
    leaves = [part.requires_grad_() for part in (x, weight, bias)]
    y = reference.norm_gelu(*leaves, 1e-5)
    given = [leaf.detach() for leaf in leaves]
    ours, statistics, _ = launches.run_norm_gelu(*given, 2)
    torch.testing.assert_close(ours, y.detach(), rtol=1e-5, atol=1e-6)
    of_x, sums, _ = launches.run_norm_gelu_backward(*given, gradient, statistics, 2)
    for one, other in zip((of_x, *sums), torch.autograd.grad(y, leaves, gradient), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def check_distance_attention():
    """Beside the CPU's kernel, which draws the same weights to drop."""
    tile, launches.launch.attention_tile = launches.launch.attention_tile, lambda *_: AttentionTile(16, 32, 16, 4)
    try:
        starts = torch.tensor([0, 35, 52], dtype=torch.int32)
        positions = torch.cat([torch.arange(35) * 2 - 1, torch.arange(17) - 1])
        torch.manual_seed(7)
        seed = int(torch.randint(2**62, ()))
        qkv, factors = torch.randn(52, 3, 2, 12).requires_grad_(), torch.tensor([0.05, 0.3]).requires_grad_()
        gradient = torch.randn(52, 2, 12)
        ours = launches.run_attention(
            qkv.detach(), starts, positions, factors.detach(), gradient, seed=seed, dropout=0.3
        )
        torch.manual_seed(7)
        out = fused_attention(*qkv.unbind(1), starts, positions, factors, 35, dropout=0.3)
        torch.testing.assert_close(ours[0], out.detach(), rtol=1e-4, atol=1e-5)
        of_qkv, of_factors = torch.autograd.grad(out, (qkv, factors), gradient)
        torch.testing.assert_close(ours[2], of_qkv, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours[3], of_factors, rtol=1e-4, atol=1e-2)
    finally:
        launches.launch.attention_tile = tile


CHECKS = {
    "adamw_ema": check_adamw_ema,
    "ema": check_ema,
    "smooth_l1": check_smooth_l1,
    "layer_targets": check_layer_targets,
    "restore": check_restore,
    "decoder_layer": check_decoder_layer,
    "norm_gelu": check_norm_gelu,
    "distance_attention": check_distance_attention,
}


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
