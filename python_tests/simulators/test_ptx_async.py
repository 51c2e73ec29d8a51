"""cp.async, which arrives when it is waited for, and mma.sync, on PTX written by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ptx import Fault, Memory, launch, parse

# Two warps: each thread copies 16 bytes and reads those of the other warp.
COPY = """
.visible .entry k(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .f32 %f<5>;
    .shared .align 16 .b8 tile[1024];
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [from];
    ld.param.u64 %rd1, [to];
    shl.b32 %r1, %r0, 4;
    mov.u32 %r2, tile;
    add.s32 %r3, %r2, %r1;
    cvt.u64.u32 %rd2, %r1;
    add.s64 %rd0, %rd0, %rd2;
    add.s64 %rd1, %rd1, %rd2;
    and.b32 %r5, %r0, 1;
    shl.b32 %r5, %r5, 4;
    cp.async.cg.shared.global [%r3], [%rd0], 16, %r5;
    cp.async.commit_group;
    cp.async.commit_group;
    cp.async.wait_group 1;
    bar.sync 0;
    xor.b32 %r1, %r1, 512;
    add.s32 %r4, %r2, %r1;
    ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r4];
    st.global.v4.f32 [%rd1], {%f1, %f2, %f3, %f4};
    ret;
}
"""


def copied(text: str, room: int = 256) -> tuple[np.ndarray, np.ndarray]:
    memory = Memory(1 << 14)
    source = memory.put(np.arange(1, room + 1, dtype=np.float32), "from")
    to = memory.reserve(256, np.float32, "to")
    launch(parse(text)["k"], 1, 64, [source, to], memory)
    return source.numpy().reshape(-1, 4), to.numpy().reshape(64, 4)


def test_copies_arrive_and_what_is_left_out_is_zero():
    source, to = copied(COPY)
    source[::2] = 0
    np.testing.assert_array_equal(to, np.roll(source, 32, 0))


@pytest.mark.parametrize(
    ("right", "wrong", "what"),
    [
        (r"cp\.async\.wait_group 1;", "", "uninitialised shared memory"),
        (r"cp\.async\.wait_group 1;", "cp.async.wait_group 2;", "uninitialised shared memory"),
        (r"(cp\.async\.commit_group;\s+){2}", "", "uninitialised shared memory"),
        (r"bar\.sync 0;", "", r"race.*shared|uninitialised shared"),
        (r"cp\.async\.wait_group 1;\s+bar\.sync 0;", "bar.sync 0; cp.async.wait_group 1;", r"race.*shared"),
        (r"shl\.b32 %r1, %r0, 4;", "shl.b32 %r1, %r0, 3;", "misaligned"),
    ],
)
def test_lost_waits_and_barriers_are_found(right, wrong, what):
    text, count = re.subn(right, wrong, COPY)
    assert count == 1
    with pytest.raises(Fault, match=what):
        copied(text)


def test_a_copy_beyond_the_end_is_found_but_not_one_of_no_bytes():
    source, _ = copied(COPY.replace("and.b32 %r5, %r0, 1;", "setp.lt.u32 %p, %r0, 32; selp.u32 %r5, 1, 0, %p;").replace(
        ".reg .b32", ".reg .pred %p; .reg .b32"
    ), room=128)  # fmt: skip
    assert len(source) == 32
    with pytest.raises(Fault, match=r"out of bounds.*'from'"):
        copied(COPY, room=128)


MULTIPLY = """
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)
{{
    .reg .b32 %r<9>; .reg .b64 %rd<6>; .reg .f32 %f<4>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [a];
    ld.param.u64 %rd1, [b];
    ld.param.u64 %rd2, [c];
    mad.wide.u32 %rd0, %r0, 16, %rd0;
    mad.wide.u32 %rd1, %r0, 8, %rd1;
    mad.wide.u32 %rd2, %r0, 16, %rd2;
    ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd0];
    ld.global.v2.b32 {{%r5, %r6}}, [%rd1];
    ld.global.v4.f32 {{%f0, %f1, %f2, %f3}}, [%rd2];
    mma.sync.aligned.m16n8k16.row.col.f32.{0}.{0}.f32
        {{%f0, %f1, %f2, %f3}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%f0, %f1, %f2, %f3}};
    st.global.v4.f32 [%rd2], {{%f0, %f1, %f2, %f3}};
    ret;
}}
"""


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_product_of_tiles(dtype):
    """Element by element, as the PTX manual lists them ("Matrix fragments for mma.m16n8k16")."""
    random = np.random.default_rng(0)
    a, b = random.integers(-8, 9, (16, 16)).astype(np.float32), random.integers(-8, 9, (16, 8)).astype(np.float32)
    c = random.integers(-8, 9, (16, 8)).astype(np.float32)

    def bits(values):
        if dtype == "f16":
            return values.astype(np.float16).view(np.uint16)
        return (values.view(np.uint32) >> 16).astype(np.uint16)

    of_a, of_b, of_c = np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint16), np.zeros((32, 4), np.float32)
    wanted = np.zeros((32, 4), np.float32)
    for lane in range(32):
        group, place = lane >> 2, lane & 3
        for i in range(8):
            row = group if i in (0, 1, 4, 5) else group + 8
            of_a[lane, i] = bits(a[row, place * 2 + (i & 1) + (8 if i >= 4 else 0)][None])[0]
        for i in range(4):
            of_b[lane, i] = bits(b[place * 2 + (i & 1) + (8 if i >= 2 else 0), group][None])[0]
            at = group + (8 if i >= 2 else 0), place * 2 + (i & 1)
            of_c[lane, i], wanted[lane, i] = c[at], (a @ b + c)[at]
    memory = Memory(1 << 14)
    given = [memory.put(x, name) for x, name in ((of_a, "a"), (of_b, "b"), (of_c, "c"))]
    launch(parse(MULTIPLY.format(dtype))["k"], 1, 32, given, memory)
    np.testing.assert_array_equal(given[2].numpy(), wanted)
