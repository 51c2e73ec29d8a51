from __future__ import annotations

import builtins
import errno
import io
import json
import os
import stat

import pytest
import torch
from safetensors import SafetensorError

from d2v_fast.errors import CheckpointTooNew, CheckpointUnreadable, RunError, RunStopped
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


def changed(path, **fields):
    """Put other fields into a state.json, with the right checksum."""
    text = json.dumps(json.loads(json.loads(path.read_text())["state"]) | fields)
    path.write_text(json.dumps({"crc32": checkpoint.zlib.crc32(text.encode()), "state": text}))


@pytest.mark.parametrize("files", [None, [], 3, {"student.safetensors": 5}, {"student.safetensors": {"bytes": 1}}])
def test_a_state_whose_list_of_files_is_none_is_damaged(root, files, capsys):
    changed(root / "step_00000010" / "state.json", files=files)
    assert checkpoint.newest(root).step == 5
    assert "state.json cannot be read" in capsys.readouterr().err


def test_json_that_is_nested_without_end_is_damaged(root):
    (root / "step_00000010" / "state.json").write_text("[" * 200_000)
    assert checkpoint.newest(root).step == 5


def test_one_under_the_name_of_another_step_is_not_taken_for_it(root, capsys):
    """Else a run that has gone beyond would begin at the older step again and again."""
    os.rename(root / "step_00000005", root / "step_00000012")
    assert checkpoint.newest(root).step == 10
    assert "it is that of step 5; give it this name back" in capsys.readouterr().err
    os.rename(root / "step_00000010", root / "kept")  # a name that says nothing
    assert checkpoint.read(root / "kept").step == 10


def test_a_folder_whose_name_is_no_utf8(tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    root.mkdir()
    checkpoint.save(root, 5, tensors(5), {}, keep=1)
    assert torch.equal(checkpoint.newest(root).tensors("teacher")["w"], torch.full((100,), 5.0))


def test_a_damaged_one_is_set_aside_and_never_crowds_out_a_good_one(root, capsys):
    truncate(root / "step_00000010" / "teacher.safetensors")
    assert checkpoint.newest(root, set_aside=True).step == 5
    assert len(capsys.readouterr().err.splitlines()) == 1
    checkpoint.save(root, 7, tensors(7), {}, keep=1)
    assert names(root) == ["damaged_step_00000010", "step_00000007"]
    checkpoint.save(root, 10, tensors(10), {}, keep=1)
    assert checkpoint.newest(root).step == 10


def test_a_damaged_one_of_the_same_step_is_replaced(root):
    truncate(root / "step_00000010" / "teacher.safetensors")
    checkpoint.save(root, 10, tensors(11), {}, keep=3)
    assert torch.equal(checkpoint.newest(root).tensors("teacher")["w"], torch.full((100,), 11.0))
    assert names(root) == ["step_00000005", "step_00000010"]


def test_no_good_checkpoint_is_an_error_and_nothing_is_renamed(root):
    for step in ("step_00000005", "step_00000010"):
        flip(root / step / "student.safetensors")
    for _ in range(2):
        with pytest.raises(
            RunError, match=r"is good, so the run cannot continue \(checkpoint .*step_00000010 is damaged"
        ):
            checkpoint.newest(root, set_aside=True)
        assert names(root) == ["step_00000005", "step_00000010"]


def newer(folder, inside: bool):
    """A state.json of a later version; `inside`: in today's layout, otherwise in one of its own."""
    path = folder / "state.json"
    inner = json.loads(json.loads(path.read_text())["state"]) | {"format": 99}
    text = json.dumps(inner)
    body = {"crc32": checkpoint.zlib.crc32(text.encode()), "state": text} if inside else {"format": 99, "rest": 1}
    path.write_text(json.dumps(body))


@pytest.mark.parametrize("inside", [True, False])
def test_a_newer_format_is_an_error_of_its_own_and_nothing_is_renamed(root, inside):
    newer(root / "step_00000010", inside)
    with pytest.raises(CheckpointTooNew, match=r"newer version of d2v_fast \(format 99, this one reads 1\)"):
        checkpoint.newest(root, set_aside=True)
    assert names(root) == ["step_00000005", "step_00000010"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
@pytest.mark.parametrize("name", ["state.json", "student.safetensors"])
def test_what_cannot_be_read_just_now_is_not_damaged(root, monkeypatch, number, name):
    real = builtins.open

    def broken(path, *args, **options):
        if str(path).endswith(f"step_00000010/{name}"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", broken)
        patch.setattr(io, "open", broken)
        with pytest.raises(CheckpointUnreadable, match=f"cannot be read just now .*{os.strerror(number)}"):
            checkpoint.newest(root, set_aside=True)
    assert names(root) == ["step_00000005", "step_00000010"]
    assert checkpoint.newest(root, set_aside=True).step == 10


def test_a_folder_that_cannot_be_listed_is_not_empty(root, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(CheckpointUnreadable, match="cannot be listed just now"):
        checkpoint.newest(root)
    with pytest.raises(CheckpointUnreadable, match="cannot be listed just now"):
        checkpoint.steps(root)


def test_a_damaged_one_that_cannot_be_renamed_stays_and_stops_nothing(root, monkeypatch, capsys):
    truncate(root / "step_00000010" / "teacher.safetensors")

    def refuse(old, new):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        assert checkpoint.newest(root, set_aside=True).step == 5
    assert "cannot be set aside: Permission denied" in capsys.readouterr().err
    checkpoint.save(root, 7, tensors(7), {}, keep=1)  # the damaged one, of a later step, must not crowd it out
    assert names(root) == ["step_00000007", "step_00000010"]
    assert checkpoint.newest(root, set_aside=True).step == 7


def test_an_earlier_one_that_was_set_aside_is_kept(root):
    for _ in range(2):
        truncate(root / "step_00000010" / "teacher.safetensors")
        assert checkpoint.newest(root, set_aside=True).step == 5
        checkpoint.save(root, 10, tensors(10), {}, keep=2)
    assert checkpoint.aside(root) == ["damaged_step_00000010", "damaged_step_00000010_2"]


class Killed(BaseException):
    """The process is gone: nothing in the product catches this."""


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_between_the_two_renames_loses_nothing(root, monkeypatch, call):
    real, calls = os.rename, iter(range(1, 9))

    def dying(old, new):
        if next(calls) == call:
            raise Killed
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying)
        with pytest.raises(Killed):
            checkpoint.save(root, 10, tensors(11), {}, keep=1)
    assert checkpoint.newest(root).step == 10  # as it lies there, for who only reads
    checkpoint.clean(root)
    assert names(root) == ["step_00000005", "step_00000010"]
    assert torch.equal(checkpoint.newest(root).tensors("teacher")["w"], torch.full((100,), 10.0))


def test_a_rename_that_fails_puts_the_replaced_one_back(root, monkeypatch):
    real, calls = os.rename, iter(range(1, 9))

    def failing(old, new):
        if next(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(
            RunStopped, match=r"Input/output error; the last good one is .*10\. See whether .* can be wr"
        ):
            checkpoint.save(root, 10, tensors(11), {}, keep=1)
    assert names(root) == ["step_00000005", "step_00000010"]
    assert torch.equal(checkpoint.newest(root).tensors("teacher")["w"], torch.full((100,), 10.0))


def test_a_reader_beside_a_trainer_finds_the_newer_one(root, monkeypatch):
    real = checkpoint.read

    def deleted_meanwhile(folder):
        if folder.name == "step_00000010" and (root / "step_00000005").exists():
            checkpoint.save(root, 15, tensors(15), {}, keep=1)
        return real(folder)

    monkeypatch.setattr(checkpoint, "read", deleted_meanwhile)
    assert checkpoint.newest(root).step == 15


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EACCES, errno.EBUSY, errno.EIO])
@pytest.mark.parametrize("function", ["rmdir", "rename", "unlink"])
def test_an_old_one_that_cannot_be_deleted_stops_nothing(root, monkeypatch, capsys, number, function):
    real = getattr(os, function)

    def refuse(path, *args, **options):
        dying = "step_00000005" in os.fspath(path) or "old_step" in os.fspath(path) or options.get("dir_fd") is not None
        if dying and "00000015" not in os.fspath(path) and "00000020" not in os.fspath(path):
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        for step in (15, 20):
            checkpoint.save(root, step, tensors(step), {}, keep=1)
        checkpoint.clean(root)  # as a later start does
        assert checkpoint.newest(root).step == 20
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"cannot be deleted ({os.strerror(number)})" in lines[0]
    checkpoint.save(root, 25, tensors(25), {}, keep=1)
    assert names(root) == ["step_00000025"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_folders_that_cannot_be_synced_are_told_of_once(root, monkeypatch, capsys, number):
    real = os.fsync

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    for step in (15, 20):
        checkpoint.save(root, step, tensors(step), {}, keep=1)
    assert checkpoint.newest(root).step == 20
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot force it to the disk" in line


def test_folders_that_cannot_be_opened_are_told_of_once(root, monkeypatch, capsys):
    real = os.open

    def refuse(path, *args, **options):
        if options.get("dir_fd") is None and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr("d2v_fast.files.os.open", refuse)
    checkpoint.save(root, 15, tensors(15), {}, keep=3)
    assert checkpoint.newest(root).step == 15
    assert "cannot force it to the disk" in capsys.readouterr().err


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
