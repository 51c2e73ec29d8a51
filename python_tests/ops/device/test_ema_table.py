"""The table of addresses on the device: made once, made again when a tensor has moved, never during a capture."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from d2v_fast import ops
from d2v_fast.ops.device import ema


@pytest.fixture
def made(cuda_gpu, monkeypatch):
    """How many tables were made: its length."""
    calls, make = [], ema._make
    monkeypatch.setattr(ema, "_make", lambda *lists, **options: calls.append(0) or make(*lists, **options))
    return calls


def lists(count=3, size=40):
    return [torch.zeros(size) for _ in range(count)], [torch.ones(size) for _ in range(count)]


def test_one_table_for_all_steps(made):
    teacher, student = lists()
    for step in range(1, 4):
        ops.ema_update_(teacher, student, 0.5)
        assert torch.equal(teacher[2], torch.full((40,), 1 - 0.5**step))
    assert len(made) == 1


def test_a_tensor_that_moved_makes_a_new_table(made):
    teacher, student = lists()
    ops.ema_update_(teacher, student, 0.5)
    student[1] = torch.full((40,), 3.0)
    ops.ema_update_(teacher, student, 0.5)
    assert len(made) == 2
    assert torch.equal(teacher[1], torch.full((40,), 1.75))
    assert torch.equal(teacher[0], torch.full((40,), 0.75))


def test_same_addresses_with_another_meaning_make_a_new_table(made):
    """Same memory, but another number of elements, format or order: nothing of the old table may be used."""
    memory, student = torch.zeros(48), torch.ones(48)
    ops.ema_update_([memory[:32]], [student[:32]], 0.5)
    ops.ema_update_([memory[:48]], [student[:48]], 0.5)
    assert torch.equal(memory, torch.cat([torch.full((32,), 0.75), torch.full((16,), 0.5)]))
    halves = student.view(torch.bfloat16)[:48]
    ops.ema_update_([memory], [halves], 0.5)
    assert torch.equal(memory[:2], torch.tensor([0.375, 0.375 + halves[1].item() / 2]))
    square, numbers = memory[:16].view(4, 4), torch.arange(16.0).view(4, 4)
    for sample in (numbers, numbers.T):
        ops.ema_update_([square], [sample], 0.0)
        assert torch.equal(square, sample)
    assert len(made) == 5


def test_shadows_are_told_from_students(made):
    a, b, c = torch.zeros(8), torch.ones(8), torch.full((8,), 2.0)
    ops.ema_update_([a], [b], 0.0, [c])
    assert torch.equal(c, b)
    ops.ema_update_([a, c], [b, torch.zeros(8)], 0.0)
    assert not c.any()


def test_a_capture_finds_its_table_or_raises(made, cuda_gpu):
    teacher, student = lists()
    cuda_gpu.capturing = True
    with pytest.raises(RuntimeError, match=r"CUDA graph is being captured.*call it once with the same tensors before"):
        ops.ema_update_(teacher, student, 0.5)
    assert cuda_gpu.launches == []
    assert not teacher[0].any(), "nothing was done"
    cuda_gpu.capturing = False
    ops.ema_update_(teacher, student, 0.5)
    cuda_gpu.capturing = True
    ops.ema_update_(teacher, student, 0.5)
    student[0] = student[0].clone()  # as load_state_dict(assign=True) or .to() would do
    with pytest.raises(RuntimeError, match="some have moved"):
        ops.ema_update_(teacher, student, 0.5)
    assert cuda_gpu.launches == ["ema", "ema"]
    assert len(made) == 1


def test_tables_of_a_captured_graph_stay_and_others_go(made, cuda_gpu):
    captured, others = lists(1), [lists(1) for _ in range(40)]
    ops.ema_update_(*captured, 0.5)
    cuda_gpu.capturing = True
    ops.ema_update_(*captured, 0.5)
    cuda_gpu.capturing = False
    ((_, table),) = next(iter(ema._plans.values())).groups
    held = weakref.ref(table)
    del table
    for other in others:
        ops.ema_update_(*other, 0.5)
    gc.collect()
    assert held() is not None, "a graph would read memory that belongs to somebody else"
    assert len(ema._plans) <= ema._KEPT + 1
    ops.ema_update_(*others[-1], 0.5)
    assert len(made) == 41, "the latest are kept"


def test_a_table_used_on_another_stream_is_kept_for_it(made, cuda_gpu):
    teacher, student = lists()
    ops.ema_update_(teacher, student, 0.5)
    assert cuda_gpu.kept == []
    cuda_gpu.stream = 128
    cuda_gpu.capturing = True  # that table stays for good
    ops.ema_update_(teacher, student, 0.5)
    assert cuda_gpu.kept == []
    cuda_gpu.capturing = False
    ops.ema_update_(teacher, student, 0.5)
    assert [tensor.dtype for tensor in cuda_gpu.kept] == [torch.int64]
    assert len(made) == 1


def test_several_devices_in_one_list(made, cuda_gpu):
    teacher = [torch.zeros(5), torch.zeros(4, device="meta"), torch.zeros(6)]
    student = [torch.ones(5), torch.ones(4, device="meta"), torch.ones(6)]
    from pretending import module

    seen = []
    update = ema._update_on
    cuda_gpu.patch.setattr(
        ema,
        "_update_on",
        lambda device, *given: seen.append(device.type) or (device.type == "cpu" and update(device, *given)),
    )
    module("ema").device.update_(teacher, student, 0.5, [])
    assert sorted(seen) == ["cpu", "meta"]
    assert torch.equal(torch.cat([teacher[0], teacher[2]]), torch.full((11,), 0.5))


def test_a_tensor_of_more_than_2_to_the_31_elements(compiled):
    """Addresses only: nothing is read."""
    size, start = 2**33 + 5, 2**40
    row = np.array([start, 2 * start, 3 * start, size, 0, 2, 3], np.int64)
    table = compiled.ema_table(row.ctypes.data, 1)
    assert len(table) == 2**33 // 16384 + 1
    done = (len(table) - 1) * 16384
    assert table[-1, :3].tolist() == [start + 4 * done, 2 * start + 2 * done, 3 * start + 2 * done]
    assert table[-1, 3] & 0xFFFFFFFF == 5
    assert (table[:-1, 3] & 0xFFFFFFFF == 16384).all()
    assert (np.diff(table[:, 0]) == 4 * 16384).all()
