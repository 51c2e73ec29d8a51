"""Shuffles, votes and their faults, on PTX written by hand: one warp stores what each lane got."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import Fault, Memory, launch, parse

PROGRAM = """
.visible .entry k(.param .u64 out)
{{
    .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<2>;
    mov.u32 %r0, %laneid;
    ld.param.u64 %rd0, [out];
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    setp.lt.u32 %p1, %r0, 16;
    mul.lo.u32 %r1, %r0, 10;
    {body}
    st.global.u32 [%rd0], %r2;
    ret;
}}
"""
LANES = np.arange(32)


def lanes(body: str) -> np.ndarray:
    memory = Memory(1 << 13)
    out = memory.reserve(32, np.uint32, "out")
    launch(parse(PROGRAM.format(body=body))["k"], 1, 32, [out], memory)
    return out.numpy().astype(np.int64)


@pytest.mark.parametrize(
    ("mode", "by", "clamp", "partner"),
    [
        ("bfly", 5, 31, LANES ^ 5),
        ("down", 3, 31, np.where(LANES + 3 < 32, LANES + 3, LANES)),
        ("up", 3, 0, np.where(LANES >= 3, LANES - 3, LANES)),
        ("idx", 7, 31, np.full(32, 7)),
        # Segments of 8 lanes: bits 8 to 12 of the clamp hold the mask of the segment.
        ("down", 3, 0x1807 | 7, np.where(LANES % 8 + 3 < 8, LANES + 3, LANES)),
        ("idx", 2, 0x181F, LANES // 8 * 8 + 2),
        ("up", 1, 0x1800, np.where(LANES % 8 >= 1, LANES - 1, LANES)),
    ],
)
def test_shuffles(mode, by, clamp, partner):
    body = f"shfl.sync.{mode}.b32 %r2, %r1, {by}, {clamp}, -1;"
    np.testing.assert_array_equal(lanes(body), partner * 10)


def test_the_predicate_of_a_shuffle_says_whether_there_was_a_partner():
    body = "shfl.sync.down.b32 %r3|%p2, %r1, 1, 31, -1; selp.b32 %r2, 1, 0, %p2;"
    np.testing.assert_array_equal(lanes(body), LANES < 31)


def test_votes_and_reductions():
    assert (lanes("vote.sync.ballot.b32 %r2, %p1, -1;") == 0xFFFF).all()
    assert (lanes("vote.sync.any.pred %p2, %p1, -1; selp.b32 %r2, 1, 0, %p2;") == 1).all()
    assert (lanes("vote.sync.all.pred %p2, %p1, -1; selp.b32 %r2, 1, 0, %p2;") == 0).all()
    assert (lanes("redux.sync.add.u32 %r2, %r1, -1;") == 10 * LANES.sum()).all()
    assert (lanes("redux.sync.max.s32 %r2, %r1, -1;") == 310).all()
    np.testing.assert_array_equal(lanes("mov.u32 %r2, 0; @%p1 activemask.b32 %r2;"), np.where(LANES < 16, 0xFFFF, 0))
    elected = "elect.sync %r3|%p2, -1; selp.b32 %r2, 1, 0, %p2;"
    np.testing.assert_array_equal(lanes(elected), LANES == 0)


def test_lanes_that_are_named_must_take_part():
    with pytest.raises(Fault, match=r"names lanes that do not take part.*\[PTX line \d+: @%p1 shfl"):
        lanes("mov.u32 %r2, 0; @%p1 shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;")
    with pytest.raises(Fault, match="not in the mask that it gives"):
        lanes("shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xFFFE;")
    with pytest.raises(Fault, match="reads a lane that the mask does not name"):
        lanes("mov.u32 %r2, 0; @%p1 shfl.sync.bfly.b32 %r2, %r1, 16, 31, 0xFFFF;")


def test_diverging_threads_join_again():
    body = """
    @%p1 bra $low;
    mov.u32 %r2, 1;
    bra $join;
$low:
    mov.u32 %r2, 2;
$join:
    shfl.sync.bfly.b32 %r2, %r2, 16, 31, -1;
    """
    np.testing.assert_array_equal(lanes(body), np.where(LANES < 16, 1, 2))


def test_a_loop_runs_as_often_as_each_lane_needs():
    body = """
    mov.u32 %r2, 0;
    mov.u32 %r3, 0;
$again:
    add.u32 %r2, %r2, %r3;
    add.u32 %r3, %r3, 1;
    setp.le.u32 %p2, %r3, %r0;
    @%p2 bra $again;
    """
    np.testing.assert_array_equal(lanes(body), LANES * (LANES + 1) // 2)


def test_a_barrier_counts_its_blocks_predicates():
    assert (lanes("bar.red.popc.u32 %r2, 0, %p1;") == 16).all()
    assert (lanes("bar.red.popc.u32 %r2, 0, !%p1;") == 16).all()
    assert (lanes("bar.red.or.pred %p2, 0, %p1; selp.b32 %r2, 1, 0, %p2;") == 1).all()
    assert (lanes("bar.red.and.pred %p2, 0, %p1; selp.b32 %r2, 1, 0, %p2;") == 0).all()
