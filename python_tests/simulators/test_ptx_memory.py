"""Bounds, alignment, uninitialised reads and traffic, on PTX written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import Coverage, Fault, Memory, NotSimulated, launch, parse
from ptx.memory import FAR, GLOBAL_BASE

HEAD = """
.visible .entry copy(.param .u64 from, .param .u64 to, .param .u32 count)
{
    .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .f32 %f<5>;
    .shared .align 16 .b8 tile[64];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mad.lo.s32 %r0, %r1, %r2, %r0;
    ld.param.u64 %rd0, [from];
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r3, [count];
    setp.ge.u32 %p, %r0, %r3;
    @%p bra $done;
"""
SCALAR = """
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    mad.wide.u32 %rd1, %r0, 4, %rd1;
    ld.global.f32 %f1, [%rd0];
    st.global.f32 [%rd1], %f1;
$done:
    ret;
}
"""
WIDE = """
    mad.wide.u32 %rd0, %r0, 16, %rd0;
    mad.wide.u32 %rd1, %r0, 16, %rd1;
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd0];
    st.global.v4.f32 [%rd1], {%f1, %f2, %f3, %f4};
$done:
    ret;
}
"""


def copy(body: str, *, count: int, room: int, offset: int = 0, threads: int = 64, blocks: int = 2):
    """Copies `count` items between buffers of `room` floats; gives (from, to, report)."""
    memory = Memory(1 << 17)
    source = memory.put(np.arange(room, dtype=np.float32), "from", offset=offset)
    to = memory.reserve(room, np.float32, "to", offset=offset)
    report = launch(parse(HEAD + body)["copy"], blocks, threads, [source, to, count], memory)
    return source.numpy(), to.numpy(), report


@pytest.mark.parametrize(("body", "items"), [(SCALAR, 1), (WIDE, 4)])
def test_a_copy_copies_and_its_traffic_is_counted(body, items):
    source, to, report = copy(body, count=100, room=100 * items)
    np.testing.assert_array_equal(source, to)
    sectors = -(-400 * items // 32) * 32
    assert report.traffic.dram_read == report.traffic.dram_written == sectors
    # Two blocks, so four warps: the accesses of each begin at a multiple of 128 * items bytes.
    assert report.traffic.sector_bytes == 2 * sectors
    assert {site.requests for site in report.traffic.sites.values()} == {4}


def test_strided_accesses_cost_whole_sectors():
    strided = SCALAR.replace("%r0, 4, %rd0", "%r0, 64, %rd0")
    _, _, report = copy(strided, count=16, room=16 * 16, threads=32, blocks=1)
    load, store = report.traffic.sites.values()
    assert (load.sectors, load.shared, store.sectors, load.bytes) == (16, 16, 2, 64)


def test_warps_of_a_block_share_what_they_load_together_and_nothing_else():
    # Every warp reads the same 32 floats: the warps of a block together, those of the other block for themselves.
    same = SCALAR.replace("    mad.wide", "    and.b32 %r3, %r0, 31;\n    mad.wide", 1).replace(
        "%r0, 4, %rd0", "%r3, 4, %rd0"
    )
    _, _, report = copy(same, count=128, room=128)
    load, store = report.traffic.sites.values()
    assert (load.requests, load.sectors, load.shared) == (4, 16, 8)
    assert store.sectors == store.shared == 16
    assert (report.traffic.dram_read, report.traffic.dram_written) == (128, 512)
    # A second load is a second pass, however close it follows.
    twice = SCALAR.replace("ld.global.f32 %f1, [%rd0];", "ld.global.f32 %f1, [%rd0];" * 2, 1)
    _, _, report = copy(twice, count=32, room=32, threads=32, blocks=1)
    assert report.traffic.sector_bytes == report.traffic.request_bytes == 3 * 128


def far_copy(body: str, *, count: int, room: int, distance: int) -> np.ndarray:
    """Copies from a buffer to another one that stands `distance` bytes behind where it begins."""
    memory = Memory(1 << 14)
    source = memory.put(np.arange(room, dtype=np.float32), "from", at=GLOBAL_BASE + FAR)
    to = memory.reserve(room, np.float32, "to", at=GLOBAL_BASE + FAR + distance)
    launch(parse(HEAD + body)["copy"], 1, 32, [source.address, source.address, count], memory)
    return to.numpy()


def test_addresses_beyond_32_bits_are_computed_as_they_are():
    wide = SCALAR.replace("st.global.f32 [%rd1]", "add.u64 %rd1, %rd1, 0x280000000;\n    st.global.f32 [%rd1]")
    np.testing.assert_array_equal(far_copy(wide, count=20, room=20, distance=0x280000000), np.arange(20))
    with pytest.raises(Fault, match=r"out of bounds in global memory.*byte 80 of buffer 'from' of 80 bytes"):
        far_copy(wide, count=21, room=20, distance=0x280000000)
    wrapped = wide.replace("0x280000000", "0x80000000")  # its lower 32 bits
    with pytest.raises(Fault, match=r"out of bounds in global memory"):
        far_copy(wrapped, count=20, room=20, distance=0x280000000)
    with pytest.raises(ValueError, match="buffer 'near' cannot stand at 0x100"):
        Memory(1 << 12).reserve(4, np.float32, "near", at=256)


def test_a_piece_of_a_large_grid():
    memory = Memory(1 << 14)
    numbers = memory.reserve((2, 3), np.uint32, "numbers")
    text = """
.visible .entry k(.param .u64 to)
{
    .reg .b32 %r<3>; .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [to];
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ctaid.y;
    add.u32 %r2, %r0, -4000000000;
    mad.lo.u32 %r2, %r1, 3, %r2;
    mul.wide.u32 %rd1, %r2, 4;
    add.u64 %rd0, %rd0, %rd1;
    st.global.u32 [%rd0], %r0;
    ret;
}"""
    launch(parse(text)["k"], (3, 2), 1, [numbers], memory, first=4000000000)
    assert numbers.numpy().tolist() == [[4000000000, 4000000001, 4000000002]] * 2
    whole = text.replace("%r1, %ctaid.y", "%r1, %nctaid.y")
    with pytest.raises(NotSimulated, match="a piece of a grid for k, which reads %nctaid"):
        launch(parse(whole)["k"], (3, 2), 1, [numbers], memory, first=4000000000)


def test_one_element_too_many_is_out_of_bounds():
    with pytest.raises(
        Fault, match=r"out of bounds.*byte 400 of buffer 'from' of 400 bytes; block 1 thread 36.*ld\.glo"
    ):
        copy(SCALAR, count=101, room=100)


def test_a_wide_access_may_not_be_misaligned():
    with pytest.raises(Fault, match=r"misaligned global address for 16 bytes.*ld\.global\.v4"):
        copy(WIDE, count=4, room=16, offset=4)
    copy(SCALAR, count=16, room=16, offset=4)


def test_the_line_of_the_message_is_the_line_of_the_text():
    text = HEAD + SCALAR
    line = 1 + text[: text.index("st.global")].count("\n")
    with pytest.raises(Fault, match=rf"\[PTX line {line}: st\.global"):
        copy(SCALAR.replace("[%rd1]", "[%rd1+400]"), count=100, room=100)


def test_an_uninitialised_read_is_found():
    with pytest.raises(Fault, match=r"uninitialised global memory is read: byte 0 of buffer 'to'"):
        copy(SCALAR.replace("[%rd0]", "[%rd1]"), count=1, room=1)
    with pytest.raises(Fault, match=r"uninitialised shared memory"):
        copy(SCALAR.replace("ld.global.f32 %f1, [%rd0]", "ld.shared.f32 %f1, [tile]"), count=1, room=1)


def test_shared_memory_has_bounds():
    with pytest.raises(Fault, match="out of bounds in shared memory"):
        copy(SCALAR.replace("st.global.f32 [%rd1]", "st.shared.f32 [tile+64]"), count=1, room=1)


def test_coverage_names_what_did_not_run_and_stale_allowances():
    kernel = parse(HEAD + SCALAR)["copy"]
    coverage = Coverage(kernel)
    _, _, report = copy(SCALAR, count=128, room=128)
    coverage.add(report)
    with pytest.raises(AssertionError, match=r"14: @%p bra"):
        coverage.check({})
    coverage.check({}, branches=False)
    coverage.check({"bra $done": (1, "only with a partial block")})
    _, _, report = copy(SCALAR, count=100, room=128)
    coverage.add(report)
    coverage.check({})
    with pytest.raises(AssertionError, match="stale"):
        coverage.check({"bra $done": (1, "only with a partial block")})


def test_shared_memory_wavefronts():
    conflict = """
    shl.b32 %r3, %r0, {shift};
    mov.u32 %r2, tile;
    add.u32 %r3, %r3, %r2;
    st.shared.u32 [%r3], %r0;
$done:
    ret;
}}
"""
    for shift, wavefronts in ((2, 1), (3, 2), (7, 32)):
        text = (HEAD + conflict.format(shift=shift)).replace("tile[64]", "tile[4096]")
        memory = Memory(1 << 12)
        traffic = launch(parse(text)["copy"], 1, 32, [0, 0, 32], memory).traffic
        assert (traffic.shared_wavefronts, traffic.shared_least) == (wavefronts, 1)


def test_endless_loops_and_unknown_instructions_end():
    with pytest.raises(Fault, match="endless loop"):
        launch(parse(".entry k() { $a: bra $a; }")["k"], 1, 32, [], Memory(1 << 12), max_steps=100)
    with pytest.raises(NotSimulated, match=r"opcode wgmma.*PTX line 2"):
        launch(parse(".entry k() {\n wgmma.fence.sync.aligned; ret; }")["k"], 1, 32, [], Memory(1 << 12))


@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_of_a_matrix_instruction(transposed):
    text = """
.visible .entry k(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<8>; .reg .b64 %rd<3>;
    .shared .align 16 .b8 tile[256];
    ld.param.u64 %rd0, [from];
    ld.param.u64 %rd1, [to];
    mov.u32 %r0, %laneid;
    mul.wide.u32 %rd2, %r0, 8;
    add.u64 %rd0, %rd0, %rd2;
    add.u64 %rd1, %rd1, %rd2;
    ld.global.v2.u32 {%r1, %r2}, [%rd0];
    mov.u32 %r3, tile;
    shl.b32 %r4, %r0, 4;
    and.b32 %r4, %r4, 255;
    add.u32 %r3, %r3, %r4;
    stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r3], {%r1, %r2};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r5, %r6}, [%r3];
    st.global.v2.u32 [%rd1], {%r5, %r6};
    ret;
}"""
    if not transposed:
        text = text.replace(".trans", "")
    memory = Memory(1 << 13)
    # Element [lane, tile, half]: lane l holds the elements 2 (l % 4) and 2 (l % 4) + 1 of row l // 4.
    values = np.arange(128, dtype=np.uint16).reshape(32, 2, 2)
    source, to = memory.put(values, "from"), memory.reserve((32, 2, 2), np.uint16, "to")
    launch(parse(text)["k"], 1, 32, [source, to], memory)
    tiles = values.reshape(8, 4, 2, 2).transpose(2, 0, 1, 3).reshape(2, 8, 8)
    got = to.numpy().reshape(8, 4, 2, 2).transpose(2, 0, 1, 3).reshape(2, 8, 8)
    np.testing.assert_array_equal(got, tiles.swapaxes(1, 2) if transposed else tiles)
    if transposed:  # otherwise each lane takes back what it has stored
        with pytest.raises(Fault, match=r"race.*shared.*ldmatrix"):
            launch(parse(text.replace("bar.warp.sync -1;", ""))["k"], 1, 32, [source, to], memory)
