from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors import SafetensorError

from d2v_fast.errors import RunError, RunStopped
from d2v_fast.run import checkpoint


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {"w": torch.full((100,), value), "n": torch.tensor(3.0)} for name in ("student", "teacher", "optimizer")
    }


def names(root) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.fixture
def root(tmp_path):
    """Checkpoints of steps 5 and 10, whose weights and state are their step."""
    for step in (5, 10):
        checkpoint.save(tmp_path, step, tensors(step), {"note": step / 3}, keep=3)
    return tmp_path


def test_what_was_written_is_read(root):
    newest = checkpoint.newest(root)
    assert newest.step == 10
    assert newest.state["note"] == 10 / 3
    for name in ("student", "teacher", "optimizer"):
        loaded = newest.tensors(name)
        assert torch.equal(loaded["w"], torch.full((100,), 10.0))
        assert loaded["n"].shape == ()
    assert names(newest.folder) == ["optimizer.safetensors", "state.json", "student.safetensors", "teacher.safetensors"]


def test_only_the_last_are_kept(root):
    for step in (15, 20, 100_000_000):
        checkpoint.save(root, step, tensors(step), {}, keep=2)
    assert names(root) == ["step_00000020", "step_100000000"]
    assert checkpoint.newest(root).step == 100_000_000


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None
    assert checkpoint.newest(tmp_path) is None


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["student.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [truncate, flip, os.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(root, damage, name, capsys):
    folder = root / "step_00000010"
    damage(folder / name)
    found = checkpoint.newest(root)
    assert found.step == 5
    message = capsys.readouterr().err
    assert f"checkpoint {folder} is damaged" in message
    assert name in message
    assert "trying step_00000005, the one before it" in message
    assert names(root) == ["step_00000005", "step_00000010"]  # reading changes nothing


def test_a_state_with_a_changed_digit_is_damaged(root):
    path = root / "step_00000010" / "state.json"
    path.write_text(path.read_text().replace("3.333", "4.333"))
    with pytest.raises(RunError, match=r"state\.json cannot be read \(its checksum differs\)"):
        checkpoint.read(root / "step_00000010")


def test_a_damaged_one_is_set_aside_and_never_crowds_out_a_good_one(root):
    truncate(root / "step_00000010" / "teacher.safetensors")
    lines = []
    assert checkpoint.newest(root, set_aside=True, report=lines.append).step == 5
    assert len(lines) == 1
    checkpoint.save(root, 7, tensors(7), {}, keep=1)
    assert names(root) == ["damaged_step_00000010", "step_00000007"]
    checkpoint.save(root, 10, tensors(10), {}, keep=1)
    assert checkpoint.newest(root).step == 10


def test_a_damaged_one_of_the_same_step_is_replaced(root):
    truncate(root / "step_00000010" / "teacher.safetensors")
    checkpoint.save(root, 10, tensors(11), {}, keep=3)
    assert torch.equal(checkpoint.newest(root).tensors("teacher")["w"], torch.full((100,), 11.0))
    assert names(root) == ["step_00000005", "step_00000010"]


def test_no_good_checkpoint_is_an_error_and_not_a_new_beginning(root):
    for step in ("step_00000005", "step_00000010"):
        flip(root / step / "student.safetensors")
    with pytest.raises(RunError, match="is good, so the run cannot continue"):
        checkpoint.newest(root, report=lambda line: None)


def test_a_newer_format_is_refused(root):
    path = root / "step_00000010" / "state.json"
    inner = json.loads(json.loads(path.read_text())["state"])
    text = json.dumps(inner | {"format": 99})
    path.write_text(json.dumps({"crc32": checkpoint.zlib.crc32(text.encode()), "state": text}))
    with pytest.raises(RunError, match="newer version of d2v_fast"):
        checkpoint.read(root / "step_00000010")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("call", [1, 3])
def test_a_full_disk_leaves_the_last_good_checkpoint(root, error, call, monkeypatch):
    original, calls = checkpoint.save_file, iter(range(1, 10))

    def full(values, path):
        original(values, path)
        if next(calls) == call:
            raise error

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunStopped, match=r"the disk is full; the last good one is .*step_00000010\. Free some space"):
        checkpoint.save(root, 15, tensors(15), {}, keep=1)
    assert names(root) == ["step_00000005", "step_00000010"]
    monkeypatch.setattr(checkpoint, "save_file", original)
    assert checkpoint.newest(root).step == 10
    checkpoint.save(root, 15, tensors(15), {}, keep=1)
    assert names(root) == ["step_00000015"]


def test_a_disk_that_is_full_for_the_state_too(root, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunStopped, match="the disk is full"):
        checkpoint.save(root, 15, tensors(15), {}, keep=1)
    assert names(root) == ["step_00000005", "step_00000010"]


def test_nothing_is_pickled(root):
    for path in root.rglob("*"):
        if path.is_file():
            head = path.read_bytes()[:20]
            assert head.startswith(b"{") or b'{"' in head  # JSON, or a safetensors header
