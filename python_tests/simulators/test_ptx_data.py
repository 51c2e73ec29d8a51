"""Comparisons, selections and moves; what is not simulated is refused."""

from __future__ import annotations

import numpy as np
import pytest
from exact import run
from ptx import NotSimulated


def test_comparisons_of_floats_know_nan():
    a, b = np.float32([1, 2, 2, np.nan]), np.float32([2, 2, 1, 1])
    expected = {
        "lt": [1, 0, 0, 0],
        "ltu": [1, 0, 0, 1],
        "ge": [0, 1, 1, 0],
        "eq": [0, 1, 0, 0],
        "ne": [1, 0, 1, 0],
        "neu": [1, 0, 1, 1],
        "num": [1, 1, 1, 0],
        "nan": [0, 0, 0, 1],
    }
    for test, values in expected.items():
        yes, no = run(f"setp.{test}.f32 %d|%q, %a, %b", a, b)
        assert yes.tolist() == list(map(bool, values)), test
        assert (yes ^ no).all()


def test_comparisons_of_integers_and_their_combination():
    a, b = [1, 2**32 - 1], [2, 1]
    assert run("setp.lo.u32", a, b)[0].tolist() == [True, False]
    assert run("setp.lt.s32", np.uint32(a).view(np.int32), b)[0].tolist() == [True, True]
    yes, no = run("setp.lt.and.s32 %d|%q, %a, %b, %c", [1, 1, 3], [2, 2, 2], [True, False, True])
    assert (yes.tolist(), no.tolist()) == ([True, False, False], [False, False, True])
    assert run("selp.b32", [7, 7], [9, 9], [True, False]).tolist() == [7, 9]


def test_moves_pack_and_unpack():
    low, high = run("mov.b64 {%d, %e}, %a", [0x1122334455667788])
    assert (low.tolist(), high.tolist()) == ([0x55667788], [0x11223344])
    assert run("mov.b32 %d, {%a, %b}", [0x1111], [0x2222]).tolist() == [0x22221111]


@pytest.mark.parametrize("text", ["add.rz.f32", "cvt.rn.f8x2.f32", "add.cc.u32", "fma.rn.relu.bf16", "add.f99"])
def test_what_is_not_known_is_refused(text):
    with pytest.raises(NotSimulated):
        run(text, *[[1]] * 3 if text.startswith("fma") else [[1]] * 2)
