"""Integer instructions against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from exact import quotient, run, signed, words


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("add.s32", lambda a, b: a + b),
        ("sub.u32", lambda a, b: a - b),
        ("mul.lo.s32", lambda a, b: a * b),
        ("mul.hi.s32", lambda a, b: a * b >> 32),
        ("mul.hi.u32", lambda a, b: a * b >> 32),
        ("mul.wide.s32", lambda a, b: a * b),
        ("mul.wide.u32", lambda a, b: a * b),
        ("div.s32", quotient),
        ("div.u32", quotient),
        ("rem.s32", lambda a, b: a - quotient(a, b) * b),
        ("rem.u32", lambda a, b: a % b),
        ("min.s32", min),
        ("max.u32", max),
        ("and.b32", lambda a, b: a & b),
        ("xor.b32", lambda a, b: a ^ b),
        ("shl.b32", lambda a, b: a << b if b < 32 else 0),
        ("shr.u32", lambda a, b: a >> b if b < 32 else 0),
        ("shr.s32", lambda a, b: a >> min(b, 31)),
        ("shr.s64", lambda a, b: a >> min(b, 63)),
    ],
)
def test_integer_arithmetic(text, function):
    type_name = text.split(".")[-1]
    bits = int(type_name[1:])
    a, b = words(200, 20), words(200, 21)[::-1]
    if text.startswith("sh"):
        b = [value % 70 for value in b]
    read = (lambda v: signed(v, bits)) if type_name[0] == "s" else (lambda v: v)
    pairs = [(read(x), y if text.startswith("sh") else read(y)) for x, y in zip(a, b, strict=True)]
    if text[:3] in ("div", "rem"):
        pairs = [(x, y) for x, y in pairs if y and (x, y) != (-(2**31), -1)]
    got = run(text, np.array([x for x, _ in pairs]), np.array([y for _, y in pairs]))
    width = got.dtype.itemsize * 8
    assert (got.astype(object) % (1 << width)).tolist() == [function(x, y) % (1 << width) for x, y in pairs]


def test_products_of_64_bits():
    a, b = 0xFEDCBA9876543210, 0x0123456789ABCDEF
    assert run("mul.lo.s64", np.uint64([a]).view(np.int64), np.int64([b])).view(np.uint64).tolist() == [a * b % 2**64]
    assert run("mul.hi.u64", np.uint64([a]), np.uint64([b])).tolist() == [a * b >> 64]
    assert run("mul.hi.s64", np.uint64([a]).view(np.int64), np.int64([b])).tolist() == [(a - 2**64) * b >> 64]
    assert run("mad.wide.s32", [-3], [5], [7]).tolist() == [-8]
    assert run("mad.lo.u32", [2**31], [2], [9]).tolist() == [9]
    assert run("neg.s32", [-(2**31)]).tolist() == [-(2**31)]
    assert run("div.u32", [5], [0]).tolist() == [2**32 - 1]


def test_bit_fields():
    values = words(50, 22)
    at, count = [v % 40 for v in words(50, 23)], [v % 40 for v in words(50, 24)]
    expected = [v >> p & (1 << n) - 1 for v, p, n in zip(values, at, count, strict=True)]
    assert run("bfe.u32", values, at, count).tolist() == expected
    assert run("bfe.s32", [0b1110100], [2], [3]).tolist() == [0b101 - 8]
    assert run("bfi.b32", [0b101], [0xFFFFFFFF], [4], [3]).tolist() == [0xFFFFFFDF]
    assert run("popc.b32", values).tolist() == [v.bit_count() for v in values]
    assert run("clz.b32", values).tolist() == [32 - v.bit_length() for v in values]
    assert run("brev.b32", values).tolist() == [int(f"{v:032b}"[::-1], 2) for v in values]
    assert run("clz.b64", [1]).tolist() == [63]


def test_funnel_shifts_and_permutations():
    low, high = words(50, 25), words(50, 26)
    by = [v % 64 for v in words(50, 27)]
    both = [h << 32 | v for v, h in zip(low, high, strict=True)]
    pairs = list(zip(both, by, strict=True))
    assert run("shf.l.wrap.b32", low, high, by).tolist() == [(v << n % 32 >> 32) % 2**32 for v, n in pairs]
    assert run("shf.r.clamp.b32", low, high, by).tolist() == [(v >> min(n, 32)) % 2**32 for v, n in pairs]
    a, b = 0x44332211, 0x88776655
    for selector, expected in ((0x7654, 0x88776655), (0x5410, 0x66552211), (0x0123, 0x11223344)):
        assert run("prmt.b32", [a], [b], [selector]).tolist() == [expected]
    # Signs: of byte 4 (negative: ones) and of byte 0 (positive: zeros) beside bytes 0 and 1 as they are.
    assert run("prmt.b32", [a], [0x887766D5], [0xC081]).tolist() == [0xFF110022]


def test_lop3_follows_its_table():
    a, b, c = words(50, 28), words(50, 29), words(50, 30)
    tables = {0xC0: lambda x, y, z: x & y, 0x96: lambda x, y, z: x ^ y ^ z, 0xCA: lambda x, y, z: x & y | ~x & z}
    for table, function in tables.items():
        got = run(f"lop3.b32 %d, %a, %b, %c, {table:#x}", a, b, c).tolist()
        assert got == [function(*v) % 2**32 for v in zip(a, b, c, strict=True)], hex(table)
