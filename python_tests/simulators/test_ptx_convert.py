"""cvt against torch's and exact conversions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from exact import floats32, rounded, run, same_bits


def test_bf16_conversion_is_torchs_for_every_pattern_of_the_upper_half():
    lower = np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    bits = (np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16) | lower).reshape(-1)
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    got = torch.from_numpy(run("cvt.rn.bf16.f32", values).view(np.int16)).view(torch.bfloat16)
    number = ~torch.isnan(expected)
    assert torch.equal(torch.isnan(got), ~number)
    assert torch.equal(got[number].view(torch.int16), expected[number].view(torch.int16))
    back = run("cvt.f32.bf16", np.arange(1 << 16, dtype=np.uint16))
    same_bits(back, (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32))
    truncated = run("cvt.rz.bf16.f32", values[~np.isnan(values)])
    np.testing.assert_array_equal(truncated, (bits >> 16).astype(np.uint16)[~np.isnan(values)])


def test_packing_puts_the_first_operand_on_top():
    a, b = floats32(300, 16), floats32(300, 17)
    for text, dtype in (("cvt.rn.bf16x2.f32", torch.bfloat16), ("cvt.rn.f16x2.f32", torch.float16)):
        halves = run(text, a, b).view(np.int16).reshape(-1, 2)
        for half, source in ((halves[:, 1], a), (halves[:, 0], b)):
            got, expected = torch.from_numpy(half.copy()).view(dtype), torch.from_numpy(source.copy()).to(dtype)
            assert torch.equal(torch.nan_to_num(got), torch.nan_to_num(expected))


def test_packing_toward_zero():
    values = np.float32([1.00048828125 + 2**-12, -1.00048828125 - 2**-12, 65519, 2.0**-25, 0.1, -0.1])
    got = run("cvt.rz.f16x2.f32", values, values).view(np.float16).reshape(-1, 2)
    expected = np.float16([1 + 2**-11 * 0, -1, 65504, 0, 0.0999755859375 - 0, -0.0999755859375])
    np.testing.assert_array_equal(got[:, 0], got[:, 1])
    assert (np.abs(got[:, 0].astype(np.float64)) <= np.abs(values)).all()
    np.testing.assert_array_equal(got[:, 0], expected)


def test_float_to_integer_rounds_and_saturates():
    a = np.float32([2.5, 3.5, -2.5, -0.5, 1e20, -1e20, np.nan, 4294967040.0])
    expected = {
        "cvt.rni.s32.f32": [2, 4, -2, 0, 2**31 - 1, -(2**31), 0, 2**31 - 1],
        "cvt.rzi.s32.f32": [2, 3, -2, 0, 2**31 - 1, -(2**31), 0, 2**31 - 1],
        "cvt.rmi.s32.f32": [2, 3, -3, -1, 2**31 - 1, -(2**31), 0, 2**31 - 1],
        "cvt.rpi.s32.f32": [3, 4, -2, 0, 2**31 - 1, -(2**31), 0, 2**31 - 1],
        "cvt.rzi.u32.f32": [2, 3, 0, 0, 2**32 - 1, 0, 0, 4294967040],
        "cvt.rzi.s64.f32": [2, 3, -2, 0, 2**63 - 1, -(2**63), -(2**63), 4294967040],
    }
    for text, values in expected.items():
        assert run(text, a).tolist() == values, text


def test_integers_convert_with_one_rounding():
    big = np.int64([2**53 + 1, -(2**24) - 1, 2**24 + 3, 7])
    np.testing.assert_array_equal(
        run("cvt.rn.f32.s64", big), np.float32([rounded(Fraction(int(x)), 24, -149) for x in big])
    )
    assert run("cvt.s64.s32", np.int32([-5])).tolist() == [-5]
    assert run("cvt.u64.u32", np.uint32([2**32 - 5])).tolist() == [2**32 - 5]
    assert run("cvt.u8.u32", np.uint32([0x1FF])).tolist() == [0xFF]
    assert run("cvt.sat.u8.s32", np.int32([300, -3, 7])).tolist() == [255, 0, 7]


def test_float64_narrows_to_nearest_and_toward_zero():
    a = np.random.default_rng(18).uniform(-1, 1, 300)
    np.testing.assert_array_equal(run("cvt.rn.f32.f64", a), a.astype(np.float32))
    zero = run("cvt.rz.f32.f64", a)
    assert (np.abs(zero.astype(np.float64)) <= np.abs(a)).all()
    beyond = np.nextafter(zero, np.copysign(np.float32(2), zero)).astype(np.float64)
    np.testing.assert_array_less(np.abs(a), np.abs(beyond))
