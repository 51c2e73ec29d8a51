"""Floating-point instructions against exact fractions, numpy's float64 and torch."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact import floats32, fractions, near_one, rounded, run, same_bits
from ptx import Memory, NotSimulated, launch, parse


@pytest.mark.parametrize(("name", "function"), [("add", np.add), ("sub", np.subtract), ("mul", np.multiply)])
def test_float32_sums_and_products_are_rounded_once(name, function):
    a, b = near_one(500, 1), near_one(500, 2) * np.float32(1e-3)
    pairs = zip(fractions(a), fractions(b), strict=True)
    exact = [{"add": x + y, "sub": x - y, "mul": x * y}[name] for x, y in pairs]
    expected = np.float32([rounded(value, 24, -149) for value in exact])
    np.testing.assert_array_equal(run(f"{name}.f32", a, b), expected)
    with np.errstate(all="ignore"):
        expected = function(floats32(200), floats32(200, 1))
    same_bits(run(f"{name}.rn.f32", floats32(200), floats32(200, 1)), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-9, 1e9])
def test_fma_is_rounded_once(scale):
    a, b = near_one(600, 3), near_one(600, 4)
    c = -(a * b) + near_one(600, 5) * np.float32(scale)  # cancels, so that a second rounding would show
    exact = [x * y + z for x, y, z in zip(fractions(a), fractions(b), fractions(c), strict=True)]
    expected = np.float32([rounded(value, 24, -149) for value in exact])
    np.testing.assert_array_equal(run("fma.rn.f32", a, b, c), expected)


def test_fma_of_subnormal_results_and_of_special_values():
    a, b = np.float32([2.0**-75, 3 * 2.0**-75, np.inf, 0.0]), np.float32([2.0**-75, 2.0**-75, 0.0, -1.0])
    c = np.float32([2.0**-149, 2.0**-149, 1.0, 0.0])
    expected = np.float32([2.0**-148, 2.0**-148, np.nan, 0.0])  # 1.5 and 2.5 units: ties go to even
    same_bits(run("fma.rn.f32", a, b, c), expected)


def test_fma_of_float64_is_exact():
    generator = np.random.default_rng(6)
    a, b = generator.uniform(-1, 1, 200), generator.uniform(-1, 1, 200)
    c = -(a * b) + generator.uniform(-1, 1, 200) * 1e-16
    exact = [float(x * y + z) for x, y, z in zip(fractions(a), fractions(b), fractions(c), strict=True)]
    np.testing.assert_array_equal(run("fma.rn.f64", a, b, c), exact)
    assert (a * b + c != exact).any()  # the case tells one rounding from two


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_sixteen_bit_arithmetic_is_rounded_once(name):
    bits, smallest, dtype = {"bf16": (8, -133, torch.bfloat16), "f16": (11, -24, torch.float16)}[name]
    a, b = (torch.from_numpy(near_one(400, seed)).to(dtype) for seed in (7, 8))
    c = (-(a.float() * b.float()) + torch.from_numpy(near_one(400, 9)) * 1e-2).to(dtype)
    raw = [x.view(torch.int16).numpy().view(np.uint16) for x in (a, b, c)]
    if name == "f16":
        raw = [x.view(np.float16) for x in raw]
    number = [[Fraction(x) for x in t.double().tolist()] for t in (a, b, c)]
    cases = {
        f"fma.rn.{name}": (raw, [x * y + z for x, y, z in zip(*number, strict=True)]),
        f"add.{name}": (raw[:2], [x + y for x, y in zip(*number[:2], strict=True)]),
        f"mul.{name}": (raw[:2], [x * y for x, y in zip(*number[:2], strict=True)]),
    }
    for text, (sources, exact) in cases.items():
        expected = torch.tensor([rounded(value, bits, smallest) for value in exact], dtype=torch.float64).to(dtype)
        got = torch.from_numpy(run(text, *sources).view(np.int16)).view(dtype)
        assert torch.equal(got, expected), text


def test_pairs_compute_both_halves():
    a, b, c = (near_one(64, seed) for seed in (10, 11, 12))
    packed = run("fma.rn.f32x2", *(x.view(np.uint64) for x in (a, b, c)))
    np.testing.assert_array_equal(packed.view(np.float32), run("fma.rn.f32", a, b, c))
    halves = [x.astype(np.float16) for x in (a, b)]
    packed = run("add.rn.f16x2", *(x.view(np.uint32) for x in halves))
    np.testing.assert_array_equal(packed.view(np.float16), halves[0] + halves[1])


def test_mixed_precision_widens_the_first_operands():
    a, c = torch.tensor([1.5, -2.25]).bfloat16(), np.float32([2.0**-20, 3.0])
    raw = a.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(run("sub.rn.f32.bf16", raw, c), a.float().numpy() - c)
    np.testing.assert_array_equal(run("fma.rn.f32.bf16", raw, raw, c), (a.double().numpy() ** 2 + c).astype(np.float32))


def test_flushing_and_saturation():
    tiny = np.float32(2.0**-130)
    flushed = run("mul.ftz.f32", np.float32([tiny, -tiny, 1.0]), np.float32([1e30, 1e30, 3.0]))
    same_bits(flushed, np.float32([0.0, -0.0, 3.0]))
    same_bits(run("mul.f32", np.float32([tiny]), np.float32([1.0])), np.float32([tiny]))
    same_bits(run("add.sat.f32", np.float32([2.0, -1.0, np.nan]), np.float32([0.0] * 3)), np.float32([1.0, 0.0, 0.0]))


def test_minimum_and_maximum_of_zeros_and_nan():
    a, b = np.float32([0.0, -0.0, np.nan, 2.0]), np.float32([-0.0, 0.0, 1.0, np.nan])
    same_bits(run("min.f32", a, b), np.float32([-0.0, -0.0, 1.0, 2.0]))
    same_bits(run("max.f32", a, b), np.float32([0.0, 0.0, 1.0, 2.0]))
    same_bits(run("min.NaN.f32", a, b)[2:], np.float32([np.nan, np.nan]))


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("rcp.approx.ftz.f32", lambda a: 1 / a),
        ("sqrt.rn.f32", math.sqrt),
        ("rsqrt.approx.f32", lambda a: 1 / math.sqrt(a)),
        ("ex2.approx.f32", lambda a: 2.0**a),
        ("lg2.approx.f32", math.log2),
        ("tanh.approx.f32", math.tanh),
    ],
)
def test_functions_are_as_exact_as_float32_can_be(text, function):
    a = np.abs(near_one(300, 13)) + np.float32(0.01)
    np.testing.assert_array_equal(run(text, a), np.float32([function(x) for x in a.astype(np.float64).tolist()]))


def test_division_is_rounded_once():
    a, b = near_one(400, 14), near_one(400, 15)
    exact = [rounded(x / y, 24, -149) for x, y in zip(fractions(a), fractions(b), strict=True)]
    for text in ("div.rn.f32", "div.full.f32"):
        np.testing.assert_array_equal(run(text, a, b), np.float32(exact))


def test_three_numbers_have_a_largest_and_a_smallest():
    a, b, c = floats32(200, 1), floats32(200, 2), floats32(200, 3)
    number = np.fmax(np.fmax(a, b), c)
    np.testing.assert_array_equal(run("max.f32", a, b, c), number)
    np.testing.assert_array_equal(run("min.f32", a, b, c), np.fmin(np.fmin(a, b), c))
    wanted = np.where(np.isnan(a) | np.isnan(b) | np.isnan(c), np.float32(np.nan), number)
    np.testing.assert_array_equal(run("max.NaN.f32", a, b, c), wanted)


def test_operands_that_an_instruction_does_not_take_are_refused():
    with pytest.raises(NotSimulated, match="these operands"):
        launch(parse(".entry k() { .reg .f32 %f<5>; add.f32 %f0, %f1, %f2, %f3; ret; }")["k"], 1, 32, [], Memory(4096))
