from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from d2v_fast.config_json import to_dict, with_overrides
from d2v_fast.errors import RunError, RunStopped
from d2v_fast.run.directory import RunDirectory, read_config
from d2v_fast.run.evidence import evidence
from d2v_fast.run.lock import refuse_if_in_use

HOLD = """
import fcntl, os, sys
handle = os.open(sys.argv[1] + "/lock", os.O_RDWR | os.O_CREAT)
fcntl.lockf(handle, fcntl.LOCK_EX)
os.pwrite(handle, b"process 1 on elsewhere\\n", 0)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "locked\n"
    with (
        pytest.raises(RunError, match=r"is in use by process 1 on elsewhere; wait for it or stop it"),
        RunDirectory(tmp_path),
    ):
        pass
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    with RunDirectory(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_same_process_cannot_open_it_twice(tmp_path):
    with RunDirectory(tmp_path / "run"):
        for _ in range(2):
            with pytest.raises(RunError, match=f"is in use by process {os.getpid()}"), RunDirectory(tmp_path / "run"):
                pass
        # The refused attempt must not have dropped our lock: POSIX locks go when any handle of the file is closed.
        probe = (
            "import fcntl, os, sys\n"
            "handle = os.open(sys.argv[1], os.O_RDWR)\n"
            "try: fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "except OSError: sys.exit(7)\n"
        )
        assert subprocess.run([sys.executable, "-c", probe, str(tmp_path / "run/lock")]).returncode == 7
    with RunDirectory(tmp_path / "run"):
        pass


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "cat.jpg").write_text("a picture")
    with pytest.raises(RunError, match=r"holds files \(cat\.jpg\) but no config\.json.*a new or an empty folder"):
        RunDirectory(tmp_path).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.jpg"]
    with pytest.raises(RunError, match=r"cat\.jpg is a file"):
        RunDirectory(tmp_path / "cat.jpg").__enter__()


def save(run: RunDirectory, config, step: int = 5) -> None:
    """A checkpoint of `config`, with one small tensor."""
    run.save(step, {"student": {"w": torch.ones(3)}}, {"config": to_dict(config)}, keep=2)


def start(path, config, **options):
    """What a start finds: the step of the checkpoint to continue from, or None."""
    with RunDirectory(path) as run:
        last = run.last_checkpoint(config, **options)
        return None if last is None else last.step


def test_config_is_kept_and_compared(tmp_path, make_config):
    config = make_config("speech")
    with RunDirectory(tmp_path / "run") as run:
        assert run.last_checkpoint(config) is None  # nothing to compare with yet
        run.write_config(config)
        save(run, config)
        assert read_config(tmp_path / "run") == config
        allowed = {
            "steps": 9,
            "log": {"every": 7, "validate_every": 3},
            "checkpoint": {"every": 1, "keep": 9},
            "loader": {"threads": 4, "prefetch": 9},
            "monitor": {"abort_std": 0.0},
            "precision": {"checkpoint_activations": True},
        }
        assert run.last_checkpoint(with_overrides(config, allowed)).step == 5
        with pytest.raises(RunError, match=r"ema\.end: the run has 0\.99, this command 0\.5; seed: ") as error:
            run.last_checkpoint(with_overrides(config, {"ema.end": 0.5, "seed": 1, "steps": 9}))
    assert "steps" not in str(error.value)


def test_a_folder_whose_checkpoints_are_gone_or_bad_is_never_begun_again(tmp_path, make_config):
    config, path = make_config("vision"), tmp_path / "run"
    with RunDirectory(path) as run:
        run.write_config(config)
        save(run, config)
    folder = path / "checkpoints" / "step_00000005"
    whole = (folder / "student.safetensors").read_bytes()
    for _ in range(2):
        (folder / "student.safetensors").write_bytes(whole[:-1])
        with pytest.raises(RunError, match="is good, so the run cannot continue"):
            start(path, config)
    (folder / "student.safetensors").write_bytes(whole)
    assert start(path, config) == 5
    folder.rename(folder.with_name("damaged_step_00000005"))  # as an earlier version did with what it could not read
    with pytest.raises(RunError, match=r"was set aside; if it is good, give it its name back: step_00000005\), but no"):
        start(path, config)
    shutil.rmtree(path / "checkpoints")
    for resume in ("auto", "must"):
        with pytest.raises(
            RunError, match=r"holds a run \(run\.json says that it has had a checkpoint\), but no check"
        ):
            start(path, config, resume=resume)
    with pytest.raises(RunError, match="already holds a run"):
        start(path, config, resume="never")


@pytest.mark.parametrize(("last", "held"), [(2, False), (3, True), (8, True)])
def test_metrics_of_an_earlier_version_show_whether_there_was_a_checkpoint(tmp_path, make_config, last, held):
    config = make_config("vision")  # a checkpoint every 3 steps
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": {last}}}\n')
    if not held:
        assert start(tmp_path, config) is None
        return
    assert evidence(tmp_path) == f"metrics.jsonl goes to step {last}"
    for _ in range(2):
        with pytest.raises(RunError, match=r"holds a run .* but no checkpoint to continue it from"):
            start(tmp_path, config)
    (tmp_path / "config.json").unlink()
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match="holds a run"):
        start(tmp_path, config)


def test_after_a_start_without_a_checkpoint_the_folder_is_free(tmp_path, make_config, capsys):
    with RunDirectory(tmp_path) as run:
        assert run.last_checkpoint(make_config("vision", steps=99)) is None
        run.write_config(make_config("vision", steps=99))
        (tmp_path / "index.jsonl").write_text("of other data")
        (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
        (tmp_path / "checkpoints" / ".writing_00000003").mkdir(parents=True)
    other = make_config("speech", steps=3, loader={"batch_size": 2})
    for resume in ("auto", "never"):
        assert start(tmp_path, other, resume=resume) is None
    assert "an earlier start ended after step 2, before its first checkpoint" in capsys.readouterr().err
    with RunDirectory(tmp_path) as run:
        assert run.forget_index()
        assert not run.forget_index()
        save(run, other)
        (tmp_path / "index.jsonl").write_text("of this run")
        assert not run.forget_index()
    assert (tmp_path / "index.jsonl").exists()


def test_steps_of_a_start_that_failed_can_be_taken_back(tmp_path, make_config):
    with RunDirectory(tmp_path) as run:
        run.write_config(make_config("vision", steps=8))
        save(run, make_config("vision", steps=8))
        run.write_config(make_config("vision", steps=1000))
    assert read_config(tmp_path).steps == 8
    assert start(tmp_path, make_config("vision", steps=8)) == 5
    with pytest.raises(RunError, match=r"steps: the run has 8, this command 7 \(it may only grow\)"):
        start(tmp_path, make_config("vision", steps=7))


def test_a_run_whose_config_is_gone_continues(tmp_path, make_config):
    with RunDirectory(tmp_path) as run:
        save(run, make_config("vision"))
    assert not (tmp_path / "config.json").exists()
    assert start(tmp_path, make_config("vision")) == 5
    with pytest.raises(RunError, match="seed: the run has 0, this command 1"):
        start(tmp_path, make_config("vision", seed=1))


@pytest.mark.parametrize("name", ["config.json", "run.json", "metrics.jsonl", "checkpoints"])
def test_what_cannot_be_looked_at_now_stops_the_start(tmp_path, make_config, monkeypatch, name):
    """A disk that does not answer: nothing is begun, nothing is changed, and afterwards all is as before."""
    config = make_config("vision")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 8}\n')
    if name == "run.json":
        (tmp_path / "run.json").write_text('{"id": "1", "trained": true}')

    def stale(real):
        def call(path, *args, **options):
            if str(path) == str(tmp_path / name):
                raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return real(path, *args, **options)

        return call

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with monkeypatch.context() as patch:
        for module, function in ((io, "open"), (os, "listdir"), (os, "stat")):
            patch.setattr(module, function, stale(getattr(module, function)))
        with pytest.raises(RunError, match="Stale file handle"):
            start(tmp_path, config)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert before.items() <= after.items()


LOGS = ("slurm-4711.out", "job.e123", "job.o123", "nohup.out", "train.log", "stdout", "submit.sh", ".nfs000001",
        "README.md", "stderr.txt")  # fmt: skip


def test_a_schedulers_log_in_the_folder_is_welcome(tmp_path, make_config):
    for name in LOGS:
        (tmp_path / name).write_text("queued")
    for name in ("logs", ".hydra"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "overrides.yaml").write_text("x")
    assert start(tmp_path, make_config("vision")) is None


def test_a_config_of_something_else_is_not_overwritten(tmp_path, make_config):
    (tmp_path / "config.json").write_text('{"architectures": ["Data2VecAudioModel"]}')
    with pytest.raises(RunError, match=r"config\.json is not the configuration of a run"):
        start(tmp_path, make_config("vision"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("path", ["~nobody_of_this_name/run", "a\0b", "x" * 300])
def test_impossible_paths_are_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="cannot be"), RunDirectory(path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_it_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys, number):
    def lockf(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    for _ in range(2):
        with RunDirectory(tmp_path / "run"):
            pass
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has no locks ({os.strerror(number)})" in line


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_taken_names_its_owner(tmp_path, monkeypatch, number):
    (tmp_path / "lock").write_text("process 12 on elsewhere\n")

    def lockf(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    for refused in (RunDirectory(tmp_path).__enter__, lambda: refuse_if_in_use(tmp_path)):
        with pytest.raises(RunError, match="is in use by process 12 on elsewhere"):
            refused()


def test_a_lock_that_fails_otherwise_is_neither(tmp_path, monkeypatch):
    def lockf(handle, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(RunError, match="cannot be used for a run: Input/output error"):
        RunDirectory(tmp_path).__enter__()


def test_looking_whether_a_folder_is_in_use_makes_nothing_and_drops_no_lock(tmp_path):
    refuse_if_in_use(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with RunDirectory(tmp_path / "run"):
        for _ in range(2):
            with pytest.raises(RunError, match=f"in use by process {os.getpid()} on "):
                refuse_if_in_use(tmp_path / "run")
    refuse_if_in_use(tmp_path / "run")
    refuse_if_in_use("~nobody_of_this_name")


def test_ids_are_kept_and_never_the_same(tmp_path):
    ids = []
    for path in ("exp1/base", "exp2/base", "exp1/base"):
        with RunDirectory(tmp_path / path) as run:
            ids.append(run.id)
    assert ids[0] == ids[2] != ids[1]
    (tmp_path / "exp1/base/run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is damaged, or is not a run's: delete it"):
        RunDirectory(tmp_path / "exp1/base").__enter__()
    (tmp_path / "exp1/base/run.json").unlink()
    with RunDirectory(tmp_path / "exp1/base"):
        pass


def test_a_full_disk_at_the_start_leaves_the_configuration(tmp_path, make_config, monkeypatch):
    with RunDirectory(tmp_path) as run:
        run.write_config(make_config("vision"))

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RunStopped, match=r"config\.json could not be written: the disk is full"):
                run.write_config(make_config("vision", steps=99))
    assert read_config(tmp_path).steps == 8
    assert not (tmp_path / "config.json.tmp").exists()


def test_unreadable_config_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no config\.json"):
        read_config(tmp_path)
    for text in ('{"steps": 3', "", "[" * 200_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match=r"config\.json cannot be read .* move it away, and the newest checkpoint"):
            read_config(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "run.json", "metrics.jsonl"])
def test_json_that_is_nested_without_end_is_an_error_with_a_name(tmp_path, make_config, name):
    (tmp_path / name).write_text("[" * 200_000 + "\n")
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        start(tmp_path, make_config("vision"))


@pytest.mark.parametrize("state", ["a file", "a link to nothing", "a link to itself"])
def test_checkpoints_that_are_no_folder_are_found_at_the_start(tmp_path, state):
    path = tmp_path / "checkpoints"
    path.write_text("") if state == "a file" else path.symlink_to(path if "itself" in state else tmp_path / "unmounted")
    with pytest.raises(RunError, match=r"checkpoints is no folder, or a link to one that is not there"):
        RunDirectory(tmp_path).__enter__()
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoints"]
