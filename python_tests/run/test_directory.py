from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from d2v_fast.config_json import with_overrides
from d2v_fast.errors import RunError
from d2v_fast.run.directory import MetricsFile, RunDirectory, read_config

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


def test_config_is_kept_and_compared(tmp_path, make_config):
    config = make_config("speech")
    with RunDirectory(tmp_path / "run") as run:
        run.check_config(config)  # nothing to compare with yet
        run.write_config(config)
        assert read_config(tmp_path / "run") == config
        allowed = {
            "steps": 9,
            "log": {"every": 7, "validate_every": 3},
            "checkpoint": {"every": 1, "keep": 9},
            "loader": {"threads": 4, "prefetch": 9},
            "monitor": {"abort_std": 0.0},
        }
        run.check_config(with_overrides(config, allowed))
        with pytest.raises(RunError, match=r"ema\.end: the run has 0\.99, this command 0\.5; seed: ") as error:
            run.check_config(with_overrides(config, {"ema.end": 0.5, "seed": 1, "steps": 9}))
    assert "steps" not in str(error.value)


def test_unreadable_config_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"steps": 3')
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        read_config(tmp_path)


def test_metrics_are_cut_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = MetricsFile(path, 0)
    lines.write({"step": 1})
    size = lines.sync()
    lines.write({"step": 2})
    lines.close()
    again = MetricsFile(path, size)
    again.write({"step": 2, "again": True})
    again.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "again": True}]
    beyond = MetricsFile(path, 10_000)  # lines that were lost are not replaced by zeros
    beyond.write({"step": 3})
    beyond.close()
    assert len(path.read_text().splitlines()) == 3
