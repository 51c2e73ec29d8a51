"""The launch rules: the EMA's table covers every element once, tiles fit, and impossible shapes are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from d2v_fast.kernels import launch
from d2v_fast.kernels.launch import EMA_BLOCK, EMA_CHUNK, EmaTensor

SIZES = [0, 1, 1023, 1024, EMA_CHUNK - 1, EMA_CHUNK, EMA_CHUNK + 1, 5 * EMA_CHUNK + 17]


def tensors(offset=0):
    starts = [16 + (1 << 30) * i + offset for i in range(len(SIZES))]
    return [
        EmaTensor(start, start + (1 << 40), start + (1 << 41), size, "bfloat16", "float16")
        for start, size in zip(starts, SIZES, strict=True)
    ]


def test_table_covers_every_element_once_and_in_step():
    (group,) = launch.ema_groups(tensors())
    assert group[:3] == ("bfloat16", "float16", True)
    covered = {}
    for teacher, student, shadow, count in group.table:
        assert 0 < count <= EMA_CHUNK
        i = teacher >> 30
        first = (teacher - tensors()[i].teacher) // 4
        assert (student - tensors()[i].student) // 2 == (shadow - tensors()[i].shadow) // 2 == first
        covered.setdefault(i, []).append((first, first + count))
    assert covered.keys() == set(range(1, len(SIZES)))
    for i, spans in covered.items():
        assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
        assert spans[-1][1] == SIZES[i]
        # What is left over is at the end: no program but a tensor's last one has a tail.
        assert all((end - start) % EMA_BLOCK == 0 for start, end in spans[:-1])


def test_a_tensor_beyond_31_bits():
    size = 3 * 2**31 + 5
    (group,) = launch.ema_groups([EmaTensor(1 << 40, 1 << 41, 0, size, "bfloat16", None)])
    first, (teacher, student, _, count) = group.table[0], group.table[-1]
    assert first == (1 << 40, 1 << 41, 0, EMA_CHUNK)
    assert (teacher, student, count) == ((1 << 40) + 4 * (size - 5), (1 << 41) + 2 * (size - 5), 5)
    assert sum(row[3] for row in group.table) == size


def test_every_chunk_of_an_aligned_tensor_is_aligned():
    (group,) = launch.ema_groups(tensors())
    assert all(address % 16 == 0 for row in group.table for address in row[:3])


def test_formats_and_alignment_make_groups():
    odd = [EmaTensor(32, 64, 0, 8, "float32", None), EmaTensor(36, 64, 0, 8, "float32", None)]
    late = EmaTensor(32, 72, 0, 8, "float32", None)  # the student alone is misaligned
    groups = launch.ema_groups([*tensors(), *odd, late, *tensors(offset=2)])
    assert [group[:3] for group in groups] == [
        ("bfloat16", "float16", True),
        ("float32", None, True),
        ("float32", None, False),
        ("bfloat16", "float16", False),
    ]
    assert groups[1].table == [(32, 64, 0, 8)]
    assert groups[2].table == [(36, 64, 0, 8), (32, 72, 0, 8)]
    assert launch.ema_groups([]) == []


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 768, 1024, 1025, 4096, 8192])
def test_whole_rows_fit(channels):
    tile = launch.row_tile(channels)
    assert channels <= tile.channels <= max(32, 2 * channels)
    assert tile.channels // (32 * tile.warps) <= 32, "numbers for each thread"
    tile = launch.column_tile(channels, final_norm=True)
    assert channels <= tile.channels
    assert tile.rows * tile.channels // (32 * tile.warps) <= 16


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a row of 8193 channels does not fit into registers; at most 8192 do"):
        launch.row_tile(8193)
    with pytest.raises(ValueError, match="8193"):
        launch.column_tile(8193, final_norm=True)
    assert launch.column_tile(8193, final_norm=False) == launch.column_tile(1, final_norm=False)


def test_inverse_of_beta_is_a_float32():
    assert launch.clamped_inverse(0.0) == 0.0
    assert launch.clamped_inverse(4.0) == 0.25
    assert launch.clamped_inverse(1e-42) == 2.0**128 - 2.0**104


def test_steps_of_the_gradient_of_the_loss():
    assert [launch.smooth_l1_backward_block(c).channels for c in (1, 256, 257, 768, 1024, 4000)] == [
        *(256, 256, 512, 1024, 1024, 1024)
    ]


def test_shares_of_norm_and_gelu_cover_the_rows():
    for rows in (1, 31, 32, 33, 131_072, 131_073, 1_471_977, 1 << 33):
        share = launch.norm_gelu_share(rows)
        assert share % 16 == 0
        assert launch.cells(rows, share) <= 4096
        assert share == 32 or (share - 16) * 4096 < rows
    assert launch.norm_gelu_tile(512) == (1, 512, 1)
    assert launch.norm_gelu_tile(4096) == (1, 4096, 8)
    with pytest.raises(ValueError, match="a row of 4097 channels does not fit into registers; at most 4096 do"):
        launch.norm_gelu_tile(4097)


def test_cells():
    assert [launch.cells(count, 32) for count in (0, 1, 32, 33)] == [0, 1, 1, 2]


def test_rules_need_neither_torch_nor_triton():
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("launch", {launch.__file__!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
assert not {{"torch", "triton", "numpy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
