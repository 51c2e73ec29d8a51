"""Standard streams that are closed, full, gone, or of another encoding."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from d2v_fast.streams import SteadyStream

MAIN = "from d2v_fast.commands.cli import main; main()"


@pytest.fixture
def command(tmp_path):
    """(shell suffix, *arguments, **variables) runs `d2v-fast` in a folder with pictures p/."""
    (tmp_path / "p").mkdir()
    random = np.random.default_rng(1)
    for i in range(64):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"p/{i}.png")

    def run(suffix: str, *arguments: str, flags: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "bash",
                "-o",
                "pipefail",
                "-c",
                f'"$0" {flags} -c "$1" "${{@:2}}" {suffix}',
                sys.executable,
                MAIN,
                *arguments,
            ],
            cwd=tmp_path,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )

    return run


def pretrain(out: str) -> list[str]:
    return ["pretrain", "vision-tiny", "--data", "p", "--out", out, "--steps", "2"]


@pytest.mark.parametrize("suffix", ["<&- >&- 2>&-", "> /dev/full 2> /dev/full"])
def test_a_run_without_any_stream_finishes(command, tmp_path, suffix):
    result = command(suffix, *pretrain("run"))
    assert result.returncode == 0
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000002"]
    assert (tmp_path / "run/lock").read_text().startswith("process ")  # and nothing that was meant for the terminal


def test_names_that_the_encoding_lacks_are_written_as_escapes(command, tmp_path):
    result = command("", *pretrain("r\u00fcn"), PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "r\\xfcn: 2 steps" in result.stderr
    assert (tmp_path / "r\u00fcn/checkpoints").is_dir()


def test_a_log_file_has_no_bar_whatever_the_variables_say(command):
    result = command("", *pretrain("run"), FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert result.returncode == 0
    assert result.stdout == ""
    scaled, *lines = result.stderr.splitlines()
    assert "2 steps instead of the 1,800 of vision-tiny" in scaled
    assert [line.split()[1] for line in lines] == ["step", "finished"]
    assert "\x1b" not in result.stderr


def test_output_that_is_all_of_a_command_and_cannot_be_written(command):
    for arguments in (["--help"], ["info"], ["pretrain", "vision-tiny", "--help"]):
        full = command("> /dev/full", *arguments)
        assert full.returncode == 1
        assert full.stderr == "d2v-fast: standard output could not be written: [Errno 28] No space left on device\n"
    assert command(">&-", "--help").returncode == 0
    gone = command("| head -c 1", "info")
    assert (gone.returncode, gone.stderr) == (0, "")


def test_without_docstrings(command):
    # One after the other: the first compiles every module of torch anew, and the second finds them.
    for arguments in (["pretrain", "--help"], pretrain("run")):
        result = command("", *arguments, flags="-OO")
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr


def test_a_steady_stream_writes_what_it_can():
    raw = io.BytesIO()
    stream = SteadyStream(io.TextIOWrapper(raw, encoding="latin-1", write_through=True))
    assert stream.write("caf\u00e9 \u2014 \udcff") == 8
    assert raw.getvalue() == b"caf\xe9 \\u2014 \\udcff"
    assert stream.problem is None
    assert not stream.isatty()
    with pytest.raises(OSError, match="fileno"):
        stream.fileno()


def test_a_steady_stream_keeps_its_first_problem():
    class Full(io.StringIO):
        calls = 0

        def write(self, text):
            self.calls += 1
            raise OSError(errno.ENOSPC, "No space left on device")

    full = Full()
    stream = SteadyStream(full)
    for _ in range(3):
        stream.write("x")
        stream.flush()
    assert full.calls == 1
    assert stream.problem.errno == errno.ENOSPC
    none = SteadyStream(None)
    none.write("x")
    none.flush()
    assert none.problem is None
    assert not none.isatty()
    with pytest.raises(OSError, match="there is no standard output"):
        none.fileno()
